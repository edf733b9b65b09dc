"""Settings of a run: read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

import difflib
import hashlib
import json
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from longrecipe.paths import params_dir
from longrecipe.positions import METHODS
from longrecipe.positions import method as method_of

SCALES = ("mini", "small", "paper")
# What IPython keeps in a notebook's namespace beside the parameters cell.
_IPYTHON_NAMES = {"In", "Out", "get_ipython", "exit", "quit", "open"}
# Settings of how training spends memory, those of `cost.Setup` with the same names.
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


class ParamsError(ValueError):
    """Settings that cannot be run; the message names each value, what is allowed and how to mend it."""


class Params(BaseModel):
    """Every setting of a run; the same keys at every scale. Lengths in tokens, learning rates per optimizer step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # pydantic reserves the prefix model_ for itself; one key named model is fine.
    model: str = Field(description="name of the params file and of the model")
    scale: Literal["mini", "small", "paper"] = Field(description="mini: made here, CPU; small: 135M; paper: 7-8B")
    method: str = Field(description=f"{', '.join(METHODS)}; options after a colon, as in pose:n_chunks=4")
    seed: int = Field(ge=0, description="seeds data, positions and optimizer order")
    precision: Literal["auto", "bf16", "fp32"] = Field(description="auto: bf16 where the processor computes in it")
    # Keys that came later have defaults, so that runs made before keep their names.
    weights: str | None = Field(None, description="a folder in Hugging Face's layout, or a hub id; null goes by model")
    text: str | None = Field(None, description="file, folder or hub dataset of long text; null: Python's own English")
    text_tokens: int | None = Field(None, ge=1, description="reading a text stops at about so many tokens; null: all")
    replay_text: str | None = Field(None, description="the same of general text for replay; null takes text")

    window: int = Field(ge=8, description="W, context window of the base model")
    target_length: int = Field(ge=16, description="T, context window wanted")
    ratio: float = Field(gt=0, le=1, description="training length n = ratio * T (0 < ratio <= 1); flt uses all of T")
    rope_factor: float | None = Field(ge=1, description="f of the RoPE rule; null means T / W")

    probe_window: int = Field(ge=16, description="window to which H' is trained for the token analysis")
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
    eval_documents: int = Field(ge=2, description="documents measured at T, one prompt for each fact")
    eval_facts: int = Field(ge=2, description="facts hidden in each document, asked one by one and in one conversation")

    @property
    def train_length(self) -> int:
        """n, tokens of one training sample: ratio * T rounded down, or T for methods that read whole documents."""
        whole = method_of(self.method).text == "whole"
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
    def eval_lengths(self) -> list[int]:
        """Lengths to measure at: the window W, doubled up to the target length T."""
        lengths = [self.window]
        while lengths[-1] * 2 < self.target_length:
            lengths.append(lengths[-1] * 2)
        return [*lengths, self.target_length]

    @property
    def key(self) -> str:
        """A short hash of all settings: runs with equal keys are the same run."""
        return key_of(self.model_dump(exclude_defaults=True))

    def stage_key(self, stage: str) -> str:
        """A short hash of the settings that a stage reads, its own and those of the stages before it.

        stage: analysis (H' and the scores), extend or replay. Raises KeyError for another.
        """
        settings = self.model_dump(exclude_defaults=True)
        if stage == "analysis":
            common = [
                "model",
                "scale",
                "weights",
                "text",
                "text_tokens",
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

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        method_of(self.method)
        if self.target_length <= self.window:
            raise ValueError(f"target_length = {self.target_length}: must exceed window = {self.window}")
        if self.probe_window <= self.window:
            raise ValueError(f"probe_window = {self.probe_window}: must lie above window = {self.window}")
        probe_length = self.probe_length or self.probe_window
        if probe_length > self.probe_window:
            raise ValueError(f"probe_length = {probe_length}: at most probe_window = {self.probe_window}")
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


def key_of(settings: Mapping[str, Any]) -> str:
    """Ten characters that stand for settings in the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]


def available() -> dict[str, list[str]]:
    """The models of each scale that have a params file."""
    return {scale: sorted(p.stem for p in (params_dir() / scale).glob("*.yaml")) for scale in SCALES}


def load(model: str, scale: str = "mini", **overrides: Any) -> Params:
    """The settings of `params/<scale>/<model>.yaml`, with overrides by name; None leaves the file's value.

    model may also be the path of a params file of your own (`.yaml`); scale then comes from the file.
    Raises ParamsError that lists what is allowed, for an unknown model, scale or key and for impossible values.
    """
    path = Path(str(model))
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ParamsError(f"model = {model!r}: there is no such params file.")
        named = {}
    else:
        choices = available()
        if scale not in SCALES:
            raise ParamsError(f"scale = {scale!r}: allowed are {', '.join(SCALES)}.")
        if model not in choices[scale]:
            listed = "; ".join(f"{s}: {', '.join(m) or 'none yet'}" for s, m in choices.items())
            raise ParamsError(f"model = {model!r} has no params file at scale {scale!r}. There are {listed}.")
        path = params_dir() / scale / f"{model}.yaml"
        named = {"model": model, "scale": scale}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path.name} must hold `key: value` lines, flat; it holds {type(values).__name__}.")
    given = {k: v for k, v in overrides.items() if v is not None}
    return checked(Params, {**values, **named, **given}, source=path.name)


def changed(params: Params, **changes: Any) -> Params:
    """The settings with some of them changed, checked anew. Raises ParamsError."""
    return checked(Params, params.model_dump() | changes, source="a changed run")


def plain_values(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a notebook's namespace: what its parameters cell and papermill's -p have set."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _IPYTHON_NAMES
        and not isinstance(value, types.ModuleType)
        and not callable(value)
    }


def from_notebook(namespace: Mapping[str, Any]) -> Params:
    """The settings of a notebook: the plain values in its namespace (`globals()`) override the params file.

    Call it in the cell after the parameters cell, before other names are made. papermill only warns about a `-p` name
    that a notebook does not know; here it is an error. Raises ParamsError.
    """
    plain = plain_values(namespace)
    return load(plain.pop("model", "llama3"), plain.pop("scale", "mini"), **plain)


Settings = TypeVar("Settings", bound=BaseModel)


def checked(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Settings of a kind made from values; source says in errors where these come from.

    Raises ParamsError that explains every value that is refused, and lists the names where one is unknown.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        told = "\n".join(_explain(each, kind.model_fields) for each in error.errors())
        raise ParamsError(f"{told}\n(settings from {source})") from None


def _explain(error: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown parameter {name!r}.{hint} Allowed are {', '.join(fields)}."
    if error["type"] == "missing":
        return f"{name} is missing: {fields[name].description or 'a required key'}."
    if not name:
        return f"{error['ctx']['error']}".rstrip(".") + "."
    about = f" ({fields[name].description})" if fields[name].description else ""
    return f"{name} = {error['input']!r}: {error['msg'].lower()}{about}."
