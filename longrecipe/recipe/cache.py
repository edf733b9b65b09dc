"""The cache folders of a run's stages. Their names have a hash of the code that makes the files of the stage."""

import hashlib
from pathlib import Path

import numpy as np

from longrecipe import models
from longrecipe.models.checkpoint import fingerprint
from longrecipe.recipe.run_text import RunText
from longrecipe.settings import Params
from longrecipe.system.codehash import code_hash
from longrecipe.system.paths import cache_dir

_ANALYSIS = (
    "longrecipe.recipe.run_text:load_text",
    "longrecipe.models.loading:load_tokenizer",
    "longrecipe.recipe.stages:Recipe.probe",
    "longrecipe.recipe.stages:Recipe.scored",
    # These only word errors, name runs and report to trackers.
    "-longrecipe.recipe.disk:reports_full_disk",
    "-longrecipe.results.run:run_name",
    "-longrecipe.train.trackers:PROJECT",
    "-longrecipe.train.trackers:check_tracker",
    "-longrecipe.train.trackers:tracked",
)
_EXTEND = (*_ANALYSIS, *(f"longrecipe.recipe.stages:Recipe.{name}" for name in ("analyse", "stage_one_set", "extend")))
# The functions that make each stage. Their hash covers all code that they use.
CODE = {
    "analysis": _ANALYSIS,
    "extend": _EXTEND,
    "replay": (*_EXTEND, "longrecipe.recipe.stages:Recipe.replay"),
    "merge": ("longrecipe.merge:merge",),
    "measure": (
        "longrecipe.evaluate.report:report",
        "longrecipe.evaluate.reader:to_read",
        "longrecipe.evaluate.wording:planted",
        "longrecipe.evaluate.wording:sentences",
    ),
    "key tokens": (
        "longrecipe.recipe.stages:Recipe.raised",
        "longrecipe.evaluate.longppl:key_tokens",
        "longrecipe.tokens.context:short_context",
        "longrecipe.tokens.context:short_context_losses",
    ),
}


def code_of(stage: str) -> str:
    """The hash of the code that a stage uses, computed once per process. Raises KeyError for an unknown stage."""
    return code_hash(*CODE[stage])


def folder_of(stage: str, p: Params, text: RunText) -> Path:
    """The cache folder of a stage (analysis, extend or replay). Runs share it if everything that the stage reads is
    equal.

    The name has hashes of the settings that the stage reads, of your own text, and of the initial model and the stage's
    code. So a stage never resumes from files that were made with different settings, text, model or code.
    """
    name = p.model if stage == "analysis" else f"{p.model}-{p.method_slug}-{p.target_length}"
    read = [text.long.sha256[:8]] if p.text else []
    read += [text.general.sha256[:8]] if stage == "replay" and p.replay_text else []
    model = fingerprint(models.folder_of(p.source, p.scale))
    made_from = hashlib.sha256(f"{model} {code_of(stage)}".encode()).hexdigest()[:8]
    return cache_dir() / "-".join([name, stage, p.stage_key(stage), *read, made_from])


def key_tokens_file(p: Params, ids: np.ndarray) -> Path:
    """The file with the tokens of held-out documents, int64 [D, T], that need long context."""
    read = [p.rope_rule, p.rope_factor, p.target_length, p.eval_precision, code_of("key tokens"), ids.shape]
    model = fingerprint(models.folder_of(p.source, p.scale))
    made_from = hashlib.sha256(f"{model} {read}".encode() + ids.tobytes()).hexdigest()[:10]
    return cache_dir() / f"{p.model}-key-tokens-{made_from}.npy"


def report_file(made_from: str) -> Path:
    """The file with what a model can do; made_from: a hash of the model, of the questions and of their text."""
    return cache_dir() / "reports" / f"{made_from[:32]}-{code_of('measure')}.json"


def merged_folder(p: Params, replayed: Path) -> Path:
    """The folder of a run's merged model, next to the replayed model."""
    return replayed.with_name(f"merged-{p.merge_rule}-{p.merge_weight:g}-{code_of('merge')}")
