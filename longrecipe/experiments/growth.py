"""How the gain over the RoPE rule grows with the samples that a real model trains on.

This is the kit's own experiment.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claim, Claims, at_most, interval, number
from longrecipe.evaluate import LONG_CONTEXT
from longrecipe.experiments import paired
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.paired import NOT_MEASURED, RULE, Paired, over_documents
from longrecipe.experiments.real import against_rule
from longrecipe.settings import Params
from longrecipe.stats import Triple

# Samples of stage 1, and of an optimizer step.
SAMPLES, BATCH = (12, 48, 192, 600), 2
COLOUR = plots.colour("longrecipe")


def label(p: Params) -> str:
    """The name of a run's model, such as `48 samples`; for method none, the control."""
    return RULE if p.method == "none" else f"{p.extend_steps * p.extend_batch_size} samples"


def compared(**changes: object) -> Paired:
    """The finished runs of the grid; changes: as in `Experiment.grid`."""
    return Paired.of(EXPERIMENT.grid(**changes), label)


def table(found: Paired) -> pd.DataFrame:
    """A row for each number of samples, compared with the RoPE rule alone, see `Paired.table`. Also the tokens of stage
    1, and LongPPL beyond the window."""
    rows = found.table(RULE)
    if not found:
        return rows
    longppl = {name: value for name in found.names if not np.isnan(value := longppl_of(found, name))}
    rows.insert(0, "tokens", [f"{_samples(name) * found.runs[0][1].params.train_length:,}" for name in rows.index])
    return rows.assign(LongPPL=[number(longppl[name], 2) if name in longppl else NOT_MEASURED for name in rows.index])


def longppl_of(found: Paired, name: str) -> float:
    """LongPPL of the tokens beyond the window, see `evaluate.long_perplexity`; NaN if not measured."""
    rows = found.losses[(found.losses["model"] == name) & (found.losses["tokens"] == LONG_CONTEXT)]
    rows = rows[rows["start"] >= found.window]
    return float(np.exp(np.average(rows["loss"], weights=rows["count"]))) if len(rows) else np.nan


def slope(found: Paired) -> Triple:
    r"""How much the loss beyond the window changes if the samples are doubled, with its interval over documents.

    The least-squares slope $b_d$ of $\ell_{n, d} = a_d + b_d \log_2 n$ for each document d, over the numbers of samples
    n that were trained on; in nats. NaN for fewer than two numbers.
    """
    trained = _trained(found)
    if len(trained) < 2:
        return (np.nan,) * 3
    losses = pd.DataFrame({name: found.losses_of(name, beyond=True) for name in trained})
    doublings = np.log2(list(trained.values()))
    centred = doublings - doublings.mean()
    return over_documents(losses @ centred / (centred @ centred))


def claims(found: Paired) -> Claims:
    """Whether more samples help, and what the most have brought. No claims for fewer than two trained models."""
    trained = list(_trained(found))
    if RULE not in found.names or len(trained) < 2:
        return Claims([])
    by_doubling = slope(found)
    words = f"{number(by_doubling[0], 3)} nats with each doubling of samples"
    text = f"more samples lower the loss beyond {found.window:,} tokens"
    grown = Claim(text, at_most(by_doubling, 0), words, interval(by_doubling, 3))
    return Claims([grown, *against_rule(found, trained[-1])])


def figure(found: Paired) -> Figure:
    """Three panels by number of samples: the loss beyond the window minus that of the RoPE rule alone, recall at T, and
    perplexity of short text. A dashed line shows the rule alone."""
    trained = _trained(found)
    if RULE not in found.names or not trained:
        return plots.nothing("No run has finished, so there is no growth to show.")
    x = list(trained.values())
    panels = {
        "loss minus the rule's, nats": ([found.apart(name, RULE) for name in trained], 0.0),
        "recall at T, %": (
            [over_documents(found.recall[name]) for name in trained],
            float(found.recall[RULE].mean()),
        ),
        "perplexity, % of the base's": (
            [(100 * found.share(name), np.nan, np.nan) for name in trained],
            100 * found.share(RULE),
        ),
    }
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(plots.WIDTH_INCHES, 2.8))
        for axis, (text, (values, rule)) in zip(axes, panels.items(), strict=True):
            plots.points(axis, x, pd.DataFrame(values, columns=["mean", "low", "high"]), fmt="o-", color=COLOUR)
            axis.axhline(rule, color="black", lw=0.8, ls="--")
            axis.set(xscale="log", xlabel="samples", title=text)
            axis.set_xticks(x, [f"{each:,}" for each in x])
            axis.minorticks_off()
        last, by_doubling = found.apart(list(trained)[-1], RULE), slope(found)
        title = f"Loss beyond W after {x[-1]} samples: {number(last[0], 3)} nats from the RoPE rule alone"
        if not np.isnan(by_doubling[0]):
            title += f"; {number(by_doubling[0], 3)} with each doubling of samples"
        drawn = "Loss, recall and perplexity by samples, with intervals over documents; dashed: RoPE rule alone."
        plots.describe(figure, drawn, title)
    return figure


def _trained(found: Paired) -> dict[str, int]:
    """The number of samples of each trained model, the fewest first."""
    numbers = {name: _samples(name) for name in found.trained}
    return dict(sorted(numbers.items(), key=lambda each: each[1]))


def _samples(name: str) -> int:
    return 0 if name == RULE else int(name.split()[0])


def _variant(samples: int) -> dict[str, object]:
    # Every sample is of another document; profile cpu has 16 documents for its 12 samples.
    steps = {"extend_steps": samples // BATCH, "extend_batch_size": BATCH, "n_documents": max(16, samples)}
    return {"method": "longrecipe"} | steps


EXPERIMENT = Experiment(
    name="growth",
    title="Growth with training tokens",
    variants=({"method": "none"}, *map(_variant, SAMPLES)),
    protocol=paired.FULL,
    models=("smollm2",),
    defaults=paired.DEFAULTS,
    n_seeds=1,
)
