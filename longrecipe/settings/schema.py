"""The settings of a run: every key, what it may be, and what follows from them."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from longrecipe.positions import METHODS, find

SCALES = ("mini", "small", "paper")
# Settings of how training spends memory, those of `Setup` with the same names.
MEMORY = (
    "optimizer",
    "fp32_weights",
    "fp32_accumulation",
    "checkpointing",
    "offload_activations",
    "fused_loss",
    "loss_chunk",
    "sequence_parallel",
)
# Those of transformers.Trainer that need no arguments of their own.
Schedule = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant"]
Stages = Literal["base", "RoPE rule alone", "extended", "replayed", "merged", "paper's setting"]


class Params(BaseModel):
    """Every setting of a run; the same keys at every scale. Lengths in tokens, learning rates per optimizer step."""

    # papermill reads numbers from its command line: a folder may be named 2024.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    # pydantic reserves the prefix model_ for itself; one key named model is fine.
    model: str = Field(description="name of the params file and of the model")
    scale: Literal["mini", "small", "paper"] = Field(description="mini: made here, CPU; small: 135M; paper: 7-8B")
    method: str = Field(description=f"{', '.join(METHODS)}; options after a colon, as in pose:n_chunks=4")
    seed: int = Field(ge=0, lt=2**32, description="seeds data, positions and optimizer order")
    precision: Literal["auto", "bf16", "fp32"] = Field(description="auto: bf16 where the processor computes in it")
    # Keys that came later have defaults, so that runs made before keep their names.
    weights: str | None = Field(None, description="a folder in Hugging Face's layout, or a hub id; null goes by model")
    text: str | None = Field(None, description="file, folder or hub dataset of long text; null: Python's own English")
    text_tokens: int | None = Field(None, ge=1, description="reading a text stops at about so many tokens; null: all")
    replay_text: str | None = Field(None, description="the same of general text for replay; null takes text")
    text_column: str | None = Field(None, description="column of rows that holds the text; null: the usual names")
    out: str | None = Field(None, description="folder of the exported model; null: exports/, by the run's name")

    window: int = Field(ge=8, description="W, context window of the base model; null in a file: its config's")
    target_length: int = Field(ge=16, description="T, context window wanted")
    ratio: float = Field(gt=0, le=1, description="training length n = ratio * T (0 < ratio <= 1); flt uses all of T")
    rope_factor: float | None = Field(ge=1, description="f of the RoPE rule; null means T / W")

    probe_window: int = Field(ge=16, description="window of H'; null: 2 W (scale mini: 8 W), at most T")
    probe_length: int | None = Field(ge=16, description="tokens of one sample of H'; null means probe_window, in full")
    probe_steps: int = Field(ge=1)
    probe_batch_size: int = Field(ge=1, description="samples a step")
    probe_learning_rate: float = Field(gt=0)
    analysis_documents: int = Field(ge=2, description="documents whose tokens are scored with H and H'")
    analysis_length: int | None = Field(ge=16, description="tokens of each of them; null means probe_window")
    analysis_score: Literal["logit", "logprob"] = Field(description="logit, the paper's, or logprob")
    analysis_top_share: float = Field(gt=0, lt=1, description="share of tokens with the largest shift, per position")
    token_types: Literal["class", "pos", "token"] = Field(
        description="tokenizer classes, parts of speech, or token ids"
    )
    tagger: str = Field(description="for pos: hanta, textblob, or the name of an installed spaCy pipeline")
    anchor_rule: Literal["lift", "share"] = Field(description="anchors by lift, or by share of the top tokens")
    anchor_count: int = Field(ge=1, description="token types taken as anchors")
    selection: Literal["anchored", "density", "random", "first"] = Field(description="which sentences are kept")

    n_documents: int = Field(ge=1, description="documents of T tokens in the stage-1 set")
    extend_steps: int = Field(ge=1)
    extend_batch_size: int = Field(ge=1, description="samples a step")
    extend_learning_rate: float = Field(gt=0)
    extend_schedule: Schedule = Field(description="a schedule of transformers.Trainer, for instance linear or cosine")
    warmup_steps: int = Field(ge=0)

    replay_steps: int = Field(ge=1)
    replay_batch_size: int = Field(ge=1, description="samples a step")
    replay_learning_rate: float = Field(gt=0)
    replay_schedule: Schedule = Field(description="a schedule of transformers.Trainer that decays")
    replay_long_share: float = Field(ge=0, lt=1, description="share of replay steps on stage-1 samples; paper: 0")
    replay_kl_weight: float = Field(0.0, ge=0, description="of KL(original || model) on short replay text; paper: 0")
    replay_length: int | None = Field(None, ge=32, description="tokens of a short replay sample; null means window")
    replay_fact_share: float = Field(ge=0, le=0.9, description="share of short replay samples with planted facts")
    merge_weight: float = Field(ge=0, le=1, description="weight of the original model; paper: 0.5")
    merge_rule: Literal["uniform", "spare_qk"] = Field("uniform", description="spare_qk: queries and keys stay tuned")

    samples_at_once: int | None = Field(None, ge=1, description="most samples a GPU reads at a time; null: all")
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        "auto", description="auto: flash-attn where it is installed and there is a GPU, else torch's own (sdpa)"
    )
    optimizer: Literal["adamw_fp32", "adamw_bf16", "adamw_8bit", "adamw_4bit"] = Field(
        "adamw_fp32", description="AdamW, by the bits of its moments; 8 and 4 bits are torchao's"
    )
    fp32_weights: bool = Field(True, description="train a float32 copy of the weights; false: bfloat16 alone")
    fp32_accumulation: bool = Field(False, description="sum the gradients of a step's batches in float32")
    checkpointing: bool = Field(False, description="keep each block's input only, and recompute the rest")
    offload_activations: bool = Field(False, description="keep these inputs in the host's memory")
    fused_loss: bool = Field(False, description="never hold the logits of all tokens")
    loss_chunk: int = Field(4096, ge=1, description="tokens whose logits are held at a time by the fused loss")
    sequence_parallel: int = Field(1, ge=1, description="GPUs that share the tokens of one sample")

    save_steps: int = Field(ge=1, description="a resumable checkpoint every so many steps")
    eval_documents: int = Field(ge=2, le=100_000, description="documents measured at T, one prompt for each fact")
    eval_facts: int = Field(
        ge=2, le=10_000, description="facts hidden in each document, asked one by one and in one conversation"
    )
    eval_passkeys: int = Field(0, ge=0, le=100_000, description="documents with a passkey, half as many up to T / 2")
    eval_haystack: Literal["text", "noise"] = Field(
        "text", description="what NIAH(M) hides facts in; noise: as passkeys"
    )
    eval_lengths: tuple[int, ...] | None = Field(
        None, min_length=1, description="lengths to measure at beside W and T, tokens; null: the window, doubled"
    )
    eval_stages: tuple[Stages, ...] | None = Field(
        None, min_length=1, description="models that notebook 03 measures, by its names; null: all"
    )
    eval_precision: Literal["auto", "bf16", "fp32"] = Field("fp32", description="of measuring, as precision")

    @property
    def train_length(self) -> int:
        """n, tokens of one training sample: ratio * T rounded down, or T for methods that read whole documents."""
        whole = find(self.method).text == "whole"
        return self.target_length if whole else int(self.ratio * self.target_length)

    @property
    def source(self) -> str:
        """What the model is loaded from: weights where they are named, else the model's own name."""
        return self.weights or self.model

    @property
    def method_slug(self) -> str:
        """The method as a part of file names: `pose:n_chunks=4` is `pose-n_chunks-4`."""
        return re.sub(r"[^\w.]+", "-", self.method)

    @property
    def short_length(self) -> int:
        """Tokens of a short replay sample: replay_length, or the window W."""
        return self.replay_length or self.window

    @property
    def measured_lengths(self) -> list[int]:
        """Lengths to measure at, rising: the window W, the target length T, and between or below them eval_lengths, or
        W doubled."""
        doubled = [self.window << i for i in range((self.target_length // self.window).bit_length())]
        below = {n for n in self.eval_lengths or doubled if n < self.target_length}
        return sorted(below | {self.window, self.target_length})

    @property
    def key(self) -> str:
        """A short hash of all settings that change the model or its scores: runs with equal keys are the same run."""
        return key_of(self._hashed())

    def stage_key(self, stage: str) -> str:
        """A short hash of the settings that a stage reads, its own and those of the stages before it.

        stage: analysis (H' and the scores), extend or replay. Raises KeyError for another.
        """
        settings = self._hashed()
        if stage == "analysis":
            common = [
                "model",
                "scale",
                "weights",
                "text",
                "text_tokens",
                "text_column",
                "seed",
                "precision",
                "window",
                "warmup_steps",
                "save_steps",
            ]
            common += [*MEMORY, "samples_at_once", "attention"]
            return key_of({k: v for k, v in settings.items() if k in common or k.startswith(("probe_", "analysis_"))})
        later = {"extend": ("replay_", "merge_", "eval_"), "replay": ("merge_", "eval_")}[stage]
        return key_of({k: v for k, v in settings.items() if not k.startswith(later)})

    def _hashed(self) -> dict[str, Any]:
        # The folder of the export does not change the model.
        return self.model_dump(exclude_defaults=True, exclude={"out"})

    @field_validator("probe_window", mode="before")
    @classmethod
    def _follows_the_window(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        if not {"window", "target_length"} <= info.data.keys():
            # One of these is refused, which is enough to say.
            return 16
        return min(info.data["window"] * (8 if info.data.get("scale") == "mini" else 2), info.data["target_length"])

    @field_validator("eval_lengths", "eval_stages", mode="before")
    @classmethod
    def _lists_as_text(cls, value: Any) -> Any:
        return read_list(value)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = kinds_of(cls.model_fields[str(info.field_name)])
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError(f"a {'text' if str in kinds else 'value'} is needed, not true or false")
        _check_size(value)
        return value

    @field_validator("*")
    @classmethod
    def _is_usable(cls, value: Any) -> Any:
        _check_size(value)
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError("contains a NUL character" if value.strip() else "is empty")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        find(self.method)
        if self.target_length <= self.window:
            raise ValueError(f"target_length = {self.target_length}: must exceed window = {self.window}")
        if self.probe_window <= self.window:
            raise ValueError(f"probe_window = {self.probe_window}: must lie above window = {self.window}")
        probe_length = self.probe_length or self.probe_window
        if probe_length > self.probe_window:
            raise ValueError(f"probe_length = {probe_length}: at most probe_window = {self.probe_window}")
        for name in ("probe_window", "analysis_length"):
            if (value := getattr(self, name)) and value > self.target_length:
                raise ValueError(
                    f"{name} = {value}: at most target_length = {self.target_length}; set it to null to follow the "
                    "window and the target"
                )
        if (self.analysis_length or self.probe_window) <= self.window:
            raise ValueError(
                f"analysis_length = {self.analysis_length}: must exceed window = {self.window}, or no token has "
                "more context than the base knows"
            )
        if round(self.analysis_top_share * self.analysis_documents) < 1:
            raise ValueError(
                f"analysis_top_share = {self.analysis_top_share}: leaves no token of analysis_documents = "
                f"{self.analysis_documents} at a position; their product must round to 1 or more"
            )
        if self.short_length > self.window:
            raise ValueError(
                f"replay_length = {self.replay_length}: replay reads short text, at most window = {self.window} tokens"
            )
        if self.scale == "mini" and self.short_length < 40:
            raise ValueError(
                f"replay_length = {self.replay_length}: at least 40 at scale mini, so that a fact and four questions "
                "about it fit"
            )
        if shorter := [n for n in self.eval_lengths or [] if n < 128]:
            raise ValueError(
                f"eval_lengths = {list(self.eval_lengths)}: {shorter[0]} is too short, at least 128 tokens"
            )
        if longer := [n for n in self.eval_lengths or [] if n > self.target_length]:
            raise ValueError(
                f"eval_lengths = {list(self.eval_lengths)}: {longer[0]} is above target_length = {self.target_length}; "
                "leave it out, or raise target_length"
            )
        if self.fused_loss and self.replay_kl_weight:
            raise ValueError(
                f"fused_loss = True with replay_kl_weight = {self.replay_kl_weight}: the KL term needs the logits that "
                "the fused loss never makes; set one of them to none"
            )
        if self.n_documents < self.extend_batch_size:
            raise ValueError(
                f"n_documents = {self.n_documents}: must fill a batch of extend_batch_size = {self.extend_batch_size}"
            )
        if self.train_length < 16:
            raise ValueError(
                f"ratio = {self.ratio}: gives {self.train_length} tokens a sample; at least 16 are needed, "
                f"so ratio >= {16 / self.target_length:.4f}"
            )
        return self


def _check_size(value: Any) -> None:
    # Larger numbers overflow where they are multiplied or written.
    if isinstance(value, int) and abs(value) >= 2**53:
        raise ValueError("is too large, at most 2**53 - 1")


def kinds_of(field: FieldInfo) -> set[Any]:
    """The types of a field, `{int, NoneType}` for `int | None`; of a Literal the values."""
    return set(get_args(field.annotation)) or {field.annotation}


# Keys whose values are text, whatever they look like.
TEXT = frozenset(name for name, field in Params.model_fields.items() if str in kinds_of(field))


def read_list(value: Any) -> Any:
    """A list that a command line or papermill passes as text, `[512, 1024]`; other values as they are.

    Raises ValueError if the text is no list.
    """
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError("is not a list, such as [a, b]") from error
    if not isinstance(found, list):
        raise ValueError("is not a list, such as [a, b]")
    return found


def key_of(settings: Mapping[str, Any]) -> str:
    """Ten characters that stand for settings in the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
