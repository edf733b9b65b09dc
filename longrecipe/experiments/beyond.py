"""What this kit adds to the paper: the runs of `weights`, `rates` and `control`, in one long table."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from longrecipe.data.weights import SCHEMES
from longrecipe.experiments import figure2, scores, table1
from longrecipe.experiments.scores import GENERAL, final, over_seeds
from longrecipe.results import Run, find
from longrecipe.settings import Params

BEYOND = "beyond"
# A token analysis that takes about a quarter of the usual one's time: H' reads samples of 512 tokens at skipped
# positions, and 12 documents are scored instead of 40. It finds the same anchors on Llama-3 and Qwen2, but not on
# Mistral, where numbers lead by little.
CHEAP_ANALYSIS = {"probe_length": 512, "analysis_documents": 12}
COLUMNS = ["NIAH(M)", "recall", *GENERAL[:2], "analysis and stage 1 seconds", "training seconds", "training TFLOP"]
_VARIED = ("ratio", "extend_steps", "n_documents", "replay_steps", "replay_long_share", "loss_weight", "distractors")
_VARIED += ("loss_weight_strength", "fact_values", "rope_rule", "rope_factor", *CHEAP_ANALYSIS)
RATES = ("extend_learning_rate", "replay_learning_rate")


def rows() -> pd.DataFrame:
    """A row for each stage of the finished runs, as in `scores.scores`, with what else tells them apart, see `about`.

    Runs that differ from their params file in other settings than these experiments vary are left out, and so are runs
    whose base (method none on the same text) has not been measured.
    """
    return _rows(scores.usual(BEYOND, *_VARIED, *RATES))


def published(model: str, target: int) -> pd.DataFrame:
    """The same for the runs of Table 1 and for LongRecipe in Figure 2, as far as they have finished."""
    ratios = [p for p in figure2.EXPERIMENT.grid(model) if (p.method, p.target_length) == ("longrecipe", target)]
    grid = dict.fromkeys([*table1.EXPERIMENT.grid(model, targets=target), *ratios])
    return _rows([run for p in grid if (run := find(p, scores.GRID)) is not None])


def section(table: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Runs of one experiment over seeds, for results/README.md; no rows for none. more: further columns that tell them
    apart."""
    if not len(table):
        return table
    by = ["model", "target", "name", "ratio", "steps", "weights", "analysis", "text", "RoPE", *more]
    return over_seeds(final(table).sort_values(["model", "text", "RoPE"], kind="stable"), by, COLUMNS)


def on_text(table: pd.DataFrame, model: str | None = None, target: int | None = None, *, usual: bool) -> pd.DataFrame:
    """The rows with the paper's RoPE rule and the usual learning rates on the usual text, or on harder text; of one
    model and target if given."""
    if not len(table):
        return table
    table = table[((table["text"] == "usual") == usual) & (table["RoPE"] == "ntk") & (table["learning rates"] == "")]
    return table if model is None else table[(table["model"] == model) & (table["target"] == target)]


def about(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What tells runs of these experiments apart, from settings that differ from the defaults of a mini run.

    These are steps of stage 1 and long steps of replay, loss weights, text, RoPE rule, whether the token analysis is
    the usual one instead of CHEAP_ANALYSIS, and learning rates other than the usual ones.
    """
    p = Params(**settings)
    trained, rates = p.method != "none", [getattr(p, name) for name in RATES]
    is_usual = rates == [Params.model_fields[name].default for name in RATES]
    return {
        "ratio": 1.0 if p.method == "flt" else p.ratio,
        "steps": f"{p.extend_steps} + {p.replay_long_steps}" if trained else "",
        "weights": weights_in_words(p) if trained else "",
        "text": _text(p),
        "RoPE": p.rope_rule if p.rope_factor is None else f"{p.rope_rule}, factor {p.rope_factor:g}",
        "analysis": "" if all(getattr(p, name) == each for name, each in CHEAP_ANALYSIS.items()) else "usual analysis",
        "learning rates": "" if is_usual else " + ".join(f"{rate:g}" for rate in rates),
    }


def _rows(runs: Iterable[Run]) -> pd.DataFrame:
    runs = list(runs)
    # The base of the usual text is that of the paper's tables.
    bases = scores.bases_of([*scores.usual(scores.GRID), *runs])
    known = [run for run in runs if scores.base_key(run.params) in bases]
    return pd.DataFrame(
        [row | about(run.params.model_dump()) for run in known for row in scores.stage_rows(run, bases)]
    )


def weights_in_words(p: Params) -> str:
    """Loss weights in words: their scheme and strength, or none."""
    return f"{p.loss_weight} {p.weight_strength:g}" if p.loss_weight in SCHEMES else p.loss_weight


def _text(p: Params) -> str:
    """The text of a mini run in words: what makes it harder than the usual one."""
    found = [f"other numbers, {p.distractors:g} per statement"] if p.distractors else []
    return ", ".join(found + (["words as values"] if p.fact_values == "words" else [])) or "usual"
