"""Scores during stage 1: whether more optimizer steps always help. This kit's own experiment."""

import pandas as pd

from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import STEPS
from longrecipe.experiments.scores import in_order, over_seeds, shown, step_scores

# Optimizer steps of the default run's 40.
MEASURED = (5, 10, 20, 40)
COLUMNS = ("NIAH(M)", "recall", "NIAH(M) at W", "perplexity")


def section(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model, target, method and step, for results/README.md.

    Args:
        rows: `scores.step_scores`.
    """
    rows = in_order(rows).sort_values(["model", "target"], kind="stable")
    return over_seeds(rows, ["model", "target", "name", "step"], COLUMNS)


def table(model: str, target: int) -> pd.DataFrame:
    """The finished runs of one model and target as text, by method and step; no rows if there are none."""
    rows = step_scores()
    rows = rows[(rows["model"] == model) & (rows["target"] == target)] if len(rows) else rows
    return shown(over_seeds(in_order(rows), ["name", "step"], COLUMNS)) if len(rows) else pd.DataFrame()


EXPERIMENT = Experiment(
    name="steps",
    title="Scores during stage 1",
    variants=tuple({"method": method, "eval_steps": MEASURED} for method in ("pose", "longrecipe")),
    protocol=STEPS,
    section=section,
)
