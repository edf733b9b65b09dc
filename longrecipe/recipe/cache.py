"""Which code makes the files of each stage of a run: its hash is in the names of the folders in the cache."""

import hashlib
from pathlib import Path

from longrecipe.models.checkpoint import fingerprint
from longrecipe.system.codehash import code_hash

_ANALYSIS = (
    "longrecipe.recipe.run_text:load_material",
    "longrecipe.models.loading:load_tokenizer",
    "longrecipe.recipe.stages:Recipe.probe",
    "longrecipe.recipe.stages:Recipe.scored",
    # It only words errors.
    "-longrecipe.recipe.disk:reports_full_disk",
)
_EXTEND = (*_ANALYSIS, *(f"longrecipe.recipe.stages:Recipe.{name}" for name in ("analyse", "stage_one_set", "extend")))
# The functions that make a stage; what they use counts, and nothing else.
CODE = {
    "analysis": _ANALYSIS,
    "extend": _EXTEND,
    "replay": (*_EXTEND, "longrecipe.recipe.stages:Recipe.replay"),
    "merge": ("longrecipe.merge:merge",),
}


def code_of(stage: str) -> str:
    """The hash of the code that a stage uses, as it is when first asked for. Raises KeyError for an unknown stage."""
    return code_hash(*CODE[stage])


def made_from(stage: str, model: Path) -> str:
    """Eight characters that stand for the code of a stage and for the model that the run starts from."""
    return hashlib.sha256(f"{fingerprint(model)} {code_of(stage)}".encode()).hexdigest()[:8]
