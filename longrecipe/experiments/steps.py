"""Scores during stage 1: whether more optimizer steps always help. This kit's own experiment."""

import pandas as pd

from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import STEPS
from longrecipe.experiments.scores import in_order, over_seeds

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


EXPERIMENT = Experiment(
    name="steps",
    title="Scores during stage 1",
    variants=tuple({"method": method, "eval_steps": MEASURED} for method in ("pose", "longrecipe")),
    protocol=STEPS,
    section=section,
)
