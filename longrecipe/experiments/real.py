"""A real model: what training adds to the RoPE rule on SmolLM2, by method, with and without loss weights.

All variants train on equal numbers of samples of the same text. This is the kit's own experiment.
"""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import evaluate, plots
from longrecipe.claims import Claim, Claims, at_most, interval, number
from longrecipe.experiments import paired
from longrecipe.experiments.beyond import weights_in_words
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.paired import BASE, MOST_PERPLEXITY, RULE, Paired, over_documents
from longrecipe.experiments.scores import CONTIGUOUS, NAMES
from longrecipe.settings import Params, changed


def label(p: Params) -> str:
    """The name of what a run trains, such as `LongRecipe, 12 samples, anchor 9`; for method none, the control, or the
    base if the RoPE base is not raised."""
    if p.method == "none":
        return BASE if p.rope_factor == 1 else RULE
    weights = "" if p.loss_weight == "none" else f", {weights_in_words(p)}"
    return f"{NAMES.get(p.method, p.method)}, {p.extend_steps * p.extend_batch_size} samples{weights}"


def compared(**changes: object) -> Paired:
    """The finished runs of the grid, after that of the base, which is one of `factors`; changes: as in
    `Experiment.grid`."""
    grid = EXPERIMENT.grid(**changes)
    base = [changed(p, rope_factor=1.0) for p in grid if p.method == "none"]
    return Paired.of([*base, *grid], label)


def table(found: Paired) -> pd.DataFrame:
    """A row for each model, compared with the RoPE rule alone, see `Paired.table`."""
    return found.table(RULE)


def claims(found: Paired) -> Claims:
    """What training adds to the RoPE rule alone, skipped positions to contiguous ones, and weights to training."""
    return Claims(_claims(found)) if RULE in found.names else Claims([])


def _claims(found: Paired) -> Iterator[Claim]:
    for name in found.trained:
        yield from against_rule(found, name)
    for name in _plain(found):
        for other in found.trained:
            if not other.startswith(NAMES["longrecipe"]) and _samples(other) == _samples(name):
                yield from _pair(found, name, other, f"a loss lower than that of {other}")
            elif other.startswith(f"{name}, "):
                yield from _pair(found, other, name, "weights lower the loss")


def against_rule(found: Paired, name: str) -> Iterator[Claim]:
    """Whether a trained model reads long text better than the RoPE rule alone, and short text as well as the base."""
    window, share = found.window, found.share(name)
    yield from _pair(found, name, RULE, "training lowers the loss")
    beyond, inside = (found.losses_of(name, beyond=side) - found.losses_of(RULE, beyond=side) for side in (True, False))
    more = over_documents(beyond - inside)
    text = f"{name}: training lowers the loss more beyond {window:,} tokens than up to there"
    yield Claim(text, at_most(more, 0), f"{number(more[0], 3)} nats", interval(more, 3), main=False)
    text = f"{name}: perplexity is at most {MOST_PERPLEXITY - 1:.0%} above the base's"
    yield Claim(text, at_most((share,) * 3, MOST_PERPLEXITY), f"{share - 1:.1%}", main=False)


def _pair(found: Paired, name: str, other: str, text: str) -> Iterator[Claim]:
    yield found.loss_claim(f"{name}: {text} beyond {found.window:,} tokens", name, other)
    yield found.recall_claim(f"{name}: recall at T is at least that of {other}", name, other)


def _plain(found: Paired) -> list[str]:
    """LongRecipe without loss weights, by numbers of samples."""
    return [name for name in found.trained if name.startswith(NAMES["longrecipe"]) and name.endswith("samples")]


def _samples(name: str) -> str:
    """What follows the method in the name of a model: the number of its samples, and its weights."""
    return name.partition(", ")[2]


def by_position_figure(found: Paired) -> Figure:
    """The loss by position of the base, the RoPE rule alone and LongRecipe, with intervals over documents."""
    return paired.by_position_figure(found, [BASE, RULE, *_plain(found)])


def figure(found: Paired) -> Figure:
    """How far the loss of each trained model is from that of the RoPE rule alone, by position, with intervals."""
    trained = found.trained
    if not trained or RULE not in found.names:
        return plots.nothing("No run has finished, so there is nothing to compare.")
    losses, ends = found.losses, []
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDTH_INCHES, 3.4))
        axis.axhline(0, color="black", lw=0.8)
        axis.axvline(found.window, color="black", lw=0.8, ls="--")
        bins = losses[["start", "end"]].drop_duplicates().sort_values("start").to_numpy()
        for name in trained:
            apart = [evaluate.loss_difference(losses, name, RULE, start, end=end) for start, end in bins.tolist()]
            rows = pd.DataFrame(apart, columns=["mean", "low", "high"])
            shade, x = plots.colour(name), bins.mean(axis=1)
            plots.points(axis, x, rows, color=shade, fmt=f"{plots.marker(name)}-", ms=4, lw=1.2)
            ends.append((x[-1], rows["mean"].iloc[-1], name.replace(" samples, ", " samples,\n"), shade))
        axis.set(xlabel="position in the text, tokens", ylabel=f"loss minus {RULE}'s, nats")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        last = ", ".join(f"{number(y, 3)} {' '.join(text.split())}" for _, y, text, _ in ends)
        title = f"Loss in the last positions, minus the {RULE}'s: {last}"
        plots.describe(figure, "Difference of losses by position, with intervals over documents.", title)
        plots.label_ends(axis, ends)
    return figure


EXPERIMENT = Experiment(
    name="real",
    title="Methods and loss weights",
    variants=(
        {"method": "none"},
        {"method": CONTIGUOUS},
        {"method": "longrecipe"},
        {"method": "longrecipe", "loss_weight": "anchor"},
    ),
    protocol=paired.FULL,
    models=("smollm2",),
    defaults=paired.DEFAULTS,
    n_seeds=1,
)
