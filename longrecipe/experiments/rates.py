"""The learning rate of each method in `weights`, searched in the same way for all: three rates on one seed."""

import pandas as pd

from longrecipe.experiments import beyond, weights
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import BEYOND
from longrecipe.experiments.scores import final
from longrecipe.settings import Params

# What is searched, by its label in `weights`.
SEARCHED = {
    weights.FIFTH_WEIGHTED: weights.FIFTH | weights.ANCHORS,
    weights.POSE_WEIGHTED: weights.POSE | weights.ANCHORS,
    weights.FEW_WEIGHTED: weights.FEW | weights.ANCHORS,
}
USUAL = Params.model_fields["extend_learning_rate"].default
RATES = (USUAL / 2, USUAL, 2 * USUAL)
SEED = 0


def section(table: pd.DataFrame) -> pd.DataFrame:
    """Runs with other learning rates than the usual ones, for results/README.md."""
    return beyond.section(table[table["learning rates"] != ""] if len(table) else table, "learning rates")


def table(model: str, target: int, column: str = "NIAH(M)") -> pd.DataFrame:
    """A score of seed SEED by method and peak learning rate, the same in stage 1 and replay; NaN if a run has not
    finished."""
    found = pd.DataFrame(index=pd.Index(SEARCHED, name="name"), columns=[f"{rate:g}" for rate in RATES], dtype=float)
    rows = beyond.rows()
    if not len(rows):
        return found
    rows = final(rows[(rows["model"] == model) & (rows["target"] == target) & (rows["seed"] == SEED)])
    for row in rows[(rows["text"] == "usual") & (rows["RoPE"] == "ntk")].to_dict("records"):
        rates = {float(rate) for rate in row["learning rates"].split(" + ") if rate} or {USUAL}
        if (name := weights.label(row)) in found.index and len(rates) == 1:
            found.loc[name, f"{rates.pop():g}"] = row[column]
    return found


EXPERIMENT = Experiment(
    name="rates",
    title="Learning rates, searched on one seed",
    variants=tuple(
        variant | dict.fromkeys(beyond.RATES, rate) for variant in SEARCHED.values() for rate in RATES if rate != USUAL
    ),
    protocol=BEYOND,
    section=section,
    n_seeds=1,
)
