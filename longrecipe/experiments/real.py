"""A real model: what training adds to the RoPE rule on SmolLM2, with and without loss weights.

All variants train on equal numbers of samples of the same text, and all models read the same held-out documents, so
their differences are paired by document. Intervals are over documents: one training says nothing about other seeds.
This is the kit's own experiment.
"""

import functools
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import evaluate, plots, recipe, results
from longrecipe.claims import Claim, Claims, at_least, at_most, difference, interval, number
from longrecipe.experiments import protocols
from longrecipe.experiments.beyond import weights_in_words
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import Measured, Protocol
from longrecipe.experiments.scores import NAMES
from longrecipe.results import Run, finished
from longrecipe.stats import Triple

REAL = "real"
BASE, RULE = "base", "RoPE rule alone"
# The largest perplexity of a trained model on short text, as a share of the base's.
MOST_PERPLEXITY = 1.03
# Long text that has to be fetched first, see docs/experiments.md; 8 facts are asked one by one about one reading.
DEFAULTS = {"scale": "small", "profile": "cpu", "text": "long-text"}
DEFAULTS |= {"eval_documents": 5, "eval_facts": 8, "eval_passkeys": 0, "eval_longppl": 6}


def _measure(run: recipe.Recipe) -> Measured:
    """Needles and perplexity at the shortest length and T, and the loss of held-out documents of T tokens by position.

    The run of method none measures the RoPE rule alone, and the base at the shortest length; the others, their merged
    model.
    """
    shortest, reports = run.params.measured_lengths[0], {}
    if run.method.positions is None:
        training, anchors, name, make = {}, [], RULE, run.raised
        reports[BASE] = run.measure(run.base(), lengths=[shortest])
    else:
        training, anchors, stages = protocols.train(run)
        name, make = "merged", functools.partial(run.merge, stages["replayed"])
    reports[name] = run.measure(make(), lengths=[shortest, run.params.target_length])
    losses = results.loss_rows(recipe.read_losses(run, {name: make}))
    by_document = results.document_rows(reports)
    return Measured(protocols.tables(reports) | {"losses": losses, "documents": by_document} | training, anchors)


def label(run: Run) -> str:
    """The name of what a run trains, such as `LongRecipe, 12 samples, anchor 9`; for method none, the control."""
    p = run.params
    if p.method == "none":
        return RULE
    weights = "" if p.loss_weight == "none" else f", {weights_in_words(p)}"
    return f"{NAMES.get(p.method, p.method)}, {p.extend_steps * p.extend_batch_size} samples{weights}"


def joined(table: str) -> pd.DataFrame:
    """A table of all finished runs, with columns model (`base`, the control, or the label of a run) and seed."""
    frames = []
    for run in sorted(finished(REAL), key=lambda run: (run.params.method != "none", label(run))):
        rows = run.table(table)
        names = rows["stage"].where(rows["stage"] != "merged", label(run))
        frames.append(rows.assign(model=names, seed=run.params.seed))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["model", "seed"])


def losses() -> pd.DataFrame:
    """The losses of all models, as `evaluate.losses_by_document`, the mean over seeds; no rows without runs."""
    rows, by = joined("losses"), ["model", "tokens", "document", "start", "end", "count"]
    return rows.groupby(by, sort=False, as_index=False)["loss"].mean() if len(rows) else rows


def recall() -> pd.DataFrame:
    """Multi-key recall at the target in percent: a row for each document that was read, a column for each model."""
    rows = joined("documents")
    if not len(rows):
        return pd.DataFrame()
    rows = rows[(rows["task"] == "multi-key") & (rows["length"] == rows["length"].max())]
    return 100 * rows.pivot_table("mean", ["seed", "document"], "model")


def perplexities() -> pd.Series:
    """The perplexity of each model at the shortest length, the mean over seeds."""
    rows = joined("scores")
    return rows[rows["task"] == "perplexity"].groupby("model")["mean"].mean()


def table() -> pd.DataFrame:
    """A row for each model: its loss to the window and beyond it, minus that of the RoPE rule, recall, perplexity."""
    found = losses()
    if not len(found):
        return pd.DataFrame()
    at_target, perplexity, window, rows = recall(), perplexities(), window_of_base(), {}
    for name in found["model"].unique():
        of = found[found["model"] == name]
        apart = evaluate.loss_difference(found, name, RULE, window)
        said = _over_documents(at_target[name])
        rows[name] = {
            f"loss to {window:,}": number(_mean(of[of["end"] <= window]), 3),
            "loss beyond": number(_mean(of[of["start"] >= window]), 3),
            "minus RoPE rule's": "" if name == RULE else f"{number(apart[0], 3)} {interval(apart, 3)}",
            "recall at T": f"{number(said[0])} {interval(said)}",
            "perplexity": number(perplexity[name], 2),
            "of the base's": f"{perplexity[name] / perplexity[BASE]:.1%}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def section(rows: pd.DataFrame) -> pd.DataFrame:
    """The table for results/README.md; rows: `table`."""
    return rows


def claims() -> Claims:
    """What training adds to the RoPE rule alone, and what weights add to training. No claims without runs."""
    return Claims(_claims()) if len(losses()) else Claims([])


def _claims() -> Iterator[Claim]:
    found, at_target, perplexity, window = losses(), recall(), perplexities(), window_of_base()
    trained = [name for name in found["model"].unique() if name not in (BASE, RULE)]
    weighted = {name: plain for name in trained for plain in trained if name.startswith(f"{plain}, ")}
    pairs = [(name, RULE, "training lowers the loss") for name in trained]
    pairs += [(name, plain, "weights lower the loss") for name, plain in weighted.items()]
    for name, other, text in pairs:
        apart = evaluate.loss_difference(found, name, other, window)
        words = f"{number(apart[0], 3)} nats from {other}"
        yield Claim(f"{name}: {text} beyond {window:,} tokens", at_most(apart, 0), words, interval(apart, 3))
        points = _over_documents(at_target[name] - at_target[other])
        words, limits = difference(points, other)
        yield Claim(f"{name}: recall at T is at least that of {other}", at_least(points, 0), words, limits)
    for name in trained:
        text = f"{name}: perplexity is at most {MOST_PERPLEXITY - 1:.0%} above the base's"
        share = perplexity[name] / perplexity[BASE]
        yield Claim(text, at_most((share,) * 3, MOST_PERPLEXITY), f"{share - 1:.1%}", main=False)


def figure(found: pd.DataFrame, window: int) -> Figure:
    """How far the loss of each trained model is from that of the RoPE rule alone, by position, with intervals.

    Args:
        found: `losses`.
        window: W in tokens, marked by a line.
    """
    ends: list[tuple[float, float, str, str]] = []
    if not len(found):
        return plots.nothing("No run has finished, so there is nothing to compare.")
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDTH_INCHES, 3.4))
        axis.axhline(0, color="black", lw=0.8)
        axis.axvline(window, color="black", lw=0.8, ls="--")
        bins = found[["start", "end"]].drop_duplicates().sort_values("start").to_numpy()
        for name in [each for each in found["model"].unique() if each not in (BASE, RULE)]:
            apart = [evaluate.loss_difference(found, name, RULE, start, end=end) for start, end in bins.tolist()]
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


def _mean(rows: pd.DataFrame) -> float:
    return float(np.average(rows["loss"], weights=rows["count"]))


def _over_documents(values: pd.Series) -> Triple:
    """Mean and interval over documents, percent or points; no interval for few documents."""
    return evaluate.over_documents(values.dropna().to_numpy())


def window_of_base() -> int:
    """W, the window of the base, in tokens; 0 without runs."""
    return max((run.params.window for run in finished(REAL)), default=0)


EXPERIMENT = Experiment(
    name="real",
    title="A real model",
    variants=(
        {"method": "none"},
        {"method": "longrecipe"},
        {"method": "longrecipe", "loss_weight": "anchor"},
    ),
    protocol=Protocol(REAL, _measure, readings=2.0),
    section=section,
    models=("smollm2",),
    defaults=DEFAULTS,
    n_seeds=1,
)
