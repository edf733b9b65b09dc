"""What this kit adds to the paper: the runs of `weights`, `control` and `ropes`, in one long table."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from longrecipe.data.weights import SCHEMES
from longrecipe.experiments import scores
from longrecipe.experiments.scores import GENERAL, final, over_seeds
from longrecipe.results import finished, load
from longrecipe.settings import Params

BEYOND = "beyond"
# A token analysis at a fifth of the usual cost that finds the same anchors (see notebook 08): H' reads samples of 512
# tokens at skipped positions, and 12 documents are scored instead of 40.
CHEAP_ANALYSIS = {"probe_length": 512, "analysis_documents": 12}
COLUMNS = ["NIAH(M)", "recall", *GENERAL[:2], "analysis and stage 1 seconds", "training seconds", "training TFLOP"]


def rows(grid: Iterable[Params] | None = None) -> pd.DataFrame:
    """A row for each run and stage, as in `scores.scores`, with what else tells the runs apart: steps of stage 1 and
    long steps of replay, loss weights, text, and RoPE rule.

    Args:
        grid: settings of runs, which must all have finished. None takes every finished run.

    Raises FileNotFoundError for a run that has not finished, or whose base (method none) has not been measured.
    """
    runs = (
        finished(BEYOND) if grid is None else [load(p, scores.GRID if p.probe_length is None else BEYOND) for p in grid]
    )
    # The base of the usual text is that of the paper's tables.
    bases = scores.bases_of([*finished(scores.GRID), *finished(BEYOND)])
    return pd.DataFrame([row | about(run.params.model_dump()) for run in runs for row in scores.stage_rows(run, bases)])


def section(table: pd.DataFrame) -> pd.DataFrame:
    """Runs of one experiment over seeds, for results/README.md."""
    by = ["model", "target", "name", "ratio", "steps", "weights", "text", "RoPE"]
    return over_seeds(final(table).sort_values(["model", "text", "RoPE"], kind="stable"), by, COLUMNS)


def about(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells runs of these experiments apart, from settings that differ from the defaults of a mini run."""
    p = Params(**settings)
    trained, long = p.method != "none", round(p.replay_steps * p.replay_long_share)
    return {
        "ratio": 1.0 if p.method == "flt" else p.ratio,
        "steps": f"{p.extend_steps} + {long}" if trained else "",
        "weights": _weights(p) if trained else "",
        "text": _text(p),
        "RoPE": p.rope_rule if p.rope_factor is None else f"{p.rope_rule}, factor {p.rope_factor:g}",
        "analysis": "usual" if p.probe_length is None else "cheap",
    }


def _weights(p: Params) -> str:
    """Loss weights in words: their scheme and strength, or none."""
    return f"{p.loss_weight} {p.weight_strength:g}" if p.loss_weight in SCHEMES else p.loss_weight


def _text(p: Params) -> str:
    """The text of a mini run in words: what makes it less kind than the usual one."""
    found = [f"{p.distractors:g} other numbers"] if p.distractors else []
    return ", ".join(found + (["words as values"] if p.fact_values == "words" else [])) or "usual"
