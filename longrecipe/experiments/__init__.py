"""The experiments: one module for each item of the paper, with its grid of runs, claims, quoted numbers and figure.

`longrecipe sweep table1` makes the runs of Table 1; in a notebook, `table1.EXPERIMENT.run(table1.EXPERIMENT.grid())`
does. Finished runs are skipped, an interrupted run resumes from its last checkpoint, and one sweep runs at a time.
"""

from longrecipe.experiments import (
    control,
    factors,
    figure2,
    fronts,
    growth,
    rates,
    real,
    steps,
    table1,
    table2,
    table3,
    weights,
)
from longrecipe.experiments.experiment import Experiment

EXPERIMENTS = {
    each.EXPERIMENT.name: each.EXPERIMENT
    for each in (table1, table2, table3, figure2, fronts, steps, weights, rates, control, real, growth, factors)
}

__all__ = ["EXPERIMENTS", "Experiment"]
