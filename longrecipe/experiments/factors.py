"""The factor f of the RoPE rule on a real model without any training. This is the kit's own experiment."""

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from longrecipe.claims import Claim, Claims
from longrecipe.experiments import paired
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.paired import Paired
from longrecipe.settings import Params, load

FACTORS = (1.0, 2.0, 4.0, 8.0)


def label(p: Params) -> str:
    """The name of what a run measures, such as `f = 4`."""
    return f"f = {p.rope_factor:g}"


def compared(**changes: object) -> Paired:
    """The finished runs of the grid; changes: as in `Experiment.grid`."""
    return Paired.of(EXPERIMENT.grid(**changes), label)


def chosen() -> str:
    """The factor of the params file, which is compared with the others."""
    return label(load(EXPERIMENT.models[0], **EXPERIMENT.defaults))


def table(found: Paired) -> pd.DataFrame:
    """A row for each factor, compared with the chosen one, see `Paired.table`."""
    return found.table(chosen())


def claims(found: Paired, trained: Paired | None = None) -> Claims:
    """Whether the chosen factor reads long text best: the lowest loss beyond the window, and the highest recall.

    Args:
        trained: models that were trained with the chosen factor, from `real.compared`. Training has to bring more than
            another factor does.
    """
    if chosen() not in found.names:
        return Claims([])
    return Claims([*_claims(found), *(_of_trained(found, trained) if trained else [])])


def lowest(found: Paired) -> str:
    """The factor with the lowest loss beyond the window."""
    return min(found.names, key=lambda name: found.losses_of(name, beyond=True).mean())


def _claims(found: Paired) -> Iterator[Claim]:
    best = chosen()
    for name in [each for each in found.names if each != best]:
        text = f"{best}: a loss lower than that of {name} beyond {found.window:,} tokens, untrained"
        yield found.loss_claim(text, best, name)
        yield found.recall_claim(f"{best}: recall at T is at least that of {name}, untrained", best, name)


def _of_trained(found: Paired, trained: Paired) -> Iterator[Claim]:
    best, both = lowest(found), Paired(found.runs + trained.runs)
    for name in trained.trained:
        text = f"{name}: a loss lower than that of {best}, untrained, beyond {found.window:,} tokens"
        yield both.loss_claim(text, name, best)


def figure(found: Paired) -> Figure:
    """The loss by position of each factor, with intervals over documents."""
    return paired.by_position_figure(found)


EXPERIMENT = Experiment(
    name="factors",
    title="The factor of the RoPE rule, untrained",
    variants=tuple({"method": "none", "rope_factor": factor} for factor in FACTORS),
    protocol=paired.LEAN,
    models=("smollm2",),
    defaults=paired.DEFAULTS,
    n_seeds=1,
)
