"""All settings of a run, in groups, and what follows from them."""

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, get_args

from pydantic import model_validator

from longrecipe.families import mini_name
from longrecipe.settings.bench import Bench
from longrecipe.settings.group import Group, kinds_of
from longrecipe.settings.groups import Analysis, Extend, Merge, Replay, Run, Text
from longrecipe.settings.measure import Measure
from longrecipe.settings.memory import Memory

GROUPS: dict[str, type[Group]] = {
    "run": Run,
    "text": Text,
    "extend": Extend,
    "analysis": Analysis,
    "replay": Replay,
    "merge": Merge,
    "memory": Memory,
    "measure": Measure,
    "bench": Bench,
}
# The groups that a stage reads: its own, and those of the stages before it.
_ANALYSIS = ("run", "text", "memory", "analysis")
STAGES = {"analysis": _ANALYSIS, "extend": (*_ANALYSIS, "extend"), "replay": (*_ANALYSIS, "extend", "replay")}
# These change neither the model nor the scores that a run saves.
NO_EFFECT = frozenset({"out", "report_to", "eval_longppl"})
# Settings that were added later. A run with these values has the name that it had before they existed.
ADDED: dict[str, Any] = {
    "eval_steps": None,
    "rope_rule": "ntk",
    "document_candidates": 1,
    "loss_weight": "none",
    "loss_weight_strength": None,
    "loss_context": None,
    "distractors": 0.0,
    "fact_values": "numbers",
    "replay_skip_weight": 0.0,
    "keep_attention": False,
    "compile": False,
}


# Fields come in the order of GROUPS, from the last base class to the first: the default of probe_window reads window
# and target_length, so these come before it.
class Params(Bench, Measure, Memory, Merge, Replay, Analysis, Extend, Text, Run):
    """Every setting of a run, by name; the defaults are the default run. Raises pydantic's ValidationError."""

    @property
    def source(self) -> str:
        """What the model is loaded from: weights if given, else the model's own name; at scale mini, the mini model
        that recalls facts with the values of this run."""
        return self.weights or (mini_name(self.model, self.fact_values) if self.scale == "mini" else self.model)

    @property
    def short_length(self) -> int:
        """Tokens of a short replay sample: replay_length, or the window W."""
        return self.replay_length or self.window

    @property
    def measured_lengths(self) -> list[int]:
        """Lengths to measure at, rising: the window W, the target length T, and below T eval_lengths, or W doubled."""
        doubled = [self.window << i for i in range((self.target_length // self.window).bit_length())]
        below = {n for n in self.eval_lengths or doubled if n < self.target_length}
        return sorted(below | {self.window, self.target_length})

    @property
    def key(self) -> str:
        """A short hash of all settings that change the model or its scores: runs with equal keys are the same run.

        Those of standard benchmarks do not count: `bench_key` does.
        """
        return self._key(set(GROUPS) - {"bench"})

    @property
    def bench_key(self) -> str:
        """A short hash of all settings that change the scores on standard benchmarks."""
        return self._key(GROUPS)

    def stage_key(self, stage: str) -> str:
        """A short hash of the settings that a stage reads: its own groups, and those of the stages before it.

        stage: analysis (H' and the scores), extend or replay. Raises KeyError for another.
        """
        return self._key(STAGES[stage])

    def _key(self, groups: Collection[str]) -> str:
        names = {name for group in groups for name in GROUPS[group].model_fields}
        off = {name for name in ADDED.keys() & names if getattr(self, name) == ADDED[name]}
        return key_of(self.model_dump(include=names - NO_EFFECT - off))

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        if self.target_length <= self.window:
            raise ValueError(f"target_length = {self.target_length}: must exceed window = {self.window}")
        if self.probe_window <= self.window:
            raise ValueError(f"probe_window = {self.probe_window}: must exceed window = {self.window}")
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
        if wrong := [n for n in self.eval_steps or [] if not 0 <= n <= self.extend_steps]:
            raise ValueError(
                f"eval_steps = {list(self.eval_steps)}: stage 1 has no step {wrong[0]}; allowed are 0 (the RoPE rule "
                f"alone) to extend_steps = {self.extend_steps}"
            )
        if self.scale != "mini" and (self.distractors or self.fact_values != "numbers"):
            raise ValueError(
                f"distractors = {self.distractors:g}, fact_values = {self.fact_values!r}: facts are planted at scale "
                "mini only; leave these out"
            )
        if self.loss_context is not None:
            most = min(self.train_length, self.probe_window) // 2
            if self.loss_weight not in ("longce", "helm") and self.document_candidates == 1:
                raise ValueError(
                    f"loss_context = {self.loss_context}: only loss_weight longce and helm, and document_candidates "
                    "above 1, have a short context; leave it out"
                )
            if self.loss_context > most:
                raise ValueError(
                    f"loss_context = {self.loss_context}: at most {most}, half of a sample and of what H' reads "
                    "(probe_window)"
                )
        for name in ("replay_kl_weight", "replay_skip_weight"):
            if self.fused_loss and (value := getattr(self, name)):
                raise ValueError(
                    f"fused_loss = True with {name} = {value}: this term needs the outputs that the fused loss never "
                    f"makes; set fused_loss to false, or {name} to 0"
                )
        if self.replay_skip_weight and self.sequence_parallel > 1:
            raise ValueError(
                f"replay_skip_weight = {self.replay_skip_weight} with sequence_parallel = {self.sequence_parallel}: "
                "positions are skipped in whole samples only; set one of them to its default"
            )
        return self


SCALES: tuple[str, ...] = get_args(Params.model_fields["scale"].annotation)
# Keys whose values are text, whatever they look like.
TEXT = frozenset(name for name, field in Params.model_fields.items() if str in kinds_of(field))


def group_of(key: str) -> str:
    """The group of a setting, a name of GROUPS. Raises KeyError for an unknown setting."""
    for name, group in GROUPS.items():
        if key in group.model_fields:
            return name
    raise KeyError(key)


def key_of(settings: Mapping[str, Any]) -> str:
    """Ten characters that stand for settings in the name of a folder."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:10]
