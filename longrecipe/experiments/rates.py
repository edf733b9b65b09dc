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
    shown = {beyond.about(dict.fromkeys(beyond.RATES, rate))["learning rates"]: f"{rate:g}" for rate in RATES}
    rows = beyond.rows()
    if not len(rows):
        return pd.DataFrame(index=pd.Index(SEARCHED, name="name"), columns=list(shown.values()), dtype=float)
    rows = final(rows[(rows["model"] == model) & (rows["target"] == target) & (rows["seed"] == SEED)])
    rows = rows[(rows["text"] == "usual") & (rows["RoPE"] == "ntk")]
    rows = rows.assign(name=[weights.label(row) for row in rows.to_dict("records")])
    found = rows.pivot(index="name", columns="learning rates", values=column)
    return found.reindex(index=list(SEARCHED), columns=list(shown)).set_axis(list(shown.values()), axis=1)


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
