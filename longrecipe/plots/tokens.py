"""Figures of the token analysis: which tokens change, by passage, type and position, and which are selected."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe.plots.style import STYLE, colour
from longrecipe.results import Run
from longrecipe.tokens import Analysis, Kept, binned

_ANCHOR = colour("extended")
_OTHERS = ("#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
# Width of a character of DejaVu Sans Mono (shipped with matplotlib), in units of the font size.
_ADVANCE = 0.602


def passage(
    pieces: Sequence[str], shift: np.ndarray, threshold: float, *, columns: int = 110, size: float = 8
) -> Figure:
    """A text whose tokens are coloured by their shift from H to H', if it is at least the threshold.

    Args: pieces: decoded tokens; shift: float [len(pieces)], in logits; threshold: in logits; columns: characters per
    line; size: of the font, in points.
    """
    places, line, column = [], 0, 0
    for piece in pieces:
        text = piece.replace("\n", " ")
        if column + len(text) > columns:
            line, column = line + 1, 0
            text = text.lstrip(" ")
        places.append((line, column, text))
        column += len(text)
        if "\n" in piece:
            line, column = line + 1, 0
    width, height = columns * _ADVANCE * size / 72, (line + 1) * 1.65 * size / 72
    colour, high = plt.get_cmap("YlOrRd"), max(float(np.quantile(shift, 0.99)), threshold + 1e-6)
    with plt.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=(width, height + 0.45))
        axis = figure.add_axes((0, 0, 1, height / (height + 0.45)))
        axis.set(xlim=(0, columns), ylim=(line + 1, 0))
        axis.axis("off")
        for (row, start, text), value in zip(places, shift, strict=True):
            if value >= threshold and text.strip():
                strength = 0.15 + 0.75 * min(1.0, (value - threshold) / (high - threshold))
                skipped = len(text) - len(text.lstrip())
                box = (start + skipped, row + 0.08), len(text) - skipped, 0.84
                axis.add_patch(plt.Rectangle(*box, color=colour(strength), lw=0))
            axis.text(start, row + 0.5, text, family="DejaVu Sans Mono", size=size, va="center", parse_math=False)
        share = float(np.mean(np.asarray(shift) >= threshold))
        title = f"Tokens whose shift $S_{{H'}} - S_H$ is {threshold:.1f} or more ({share:.0%} of this passage)"
        figure.text(0, 1 - 0.2 / (height + 0.45), title, size=9.5, va="center")
    return figure


def token_shift(analysis: Analysis, anchors: Sequence[str], window: int, *, most: int = 18) -> Figure:
    """Token types that change from H to H': lift and mean shift with intervals, and shares by position.

    Only shows the first `most` types that are frequent enough to be anchors.
    """
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), width_ratios=[1.2, 1, 1.4])
        ranking = analysis.ranking[analysis.ranking["frequent"]].head(most)
        colours = [_ANCHOR if name in anchors else "#BBBBBB" for name in ranking["type"]]
        for axis, column in ((left, "lift"), (middle, "mean_shift")):
            low, high = (np.abs(ranking[column] - ranking[f"{column}_{end}"]) for end in ("low", "high"))
            axis.barh(ranking["type"], ranking[column], color=colours, xerr=[low, high], error_kw={"lw": 0.8})
            axis.invert_yaxis()
            axis.grid(axis="y", visible=False)
        left.axvline(1, color="black", lw=0.8, ls=":")
        left.set(xlabel="lift: share of top tokens / share of all", title="Token types by lift (anchors in blue)")
        middle.set(xlabel="mean shift $S_{H'} - S_H$, logits", yticks=[], title="Mean of eq. 3")
        if len(ranking) > 10:
            left.tick_params(axis="y", labelsize=7)
        _shares(right, analysis.by_position, list(ranking["type"].head(4)), anchors=anchors, window=window)
        right.set(title="Share by position (sliding mean)")
    return figure


@dataclass(frozen=True)
class Shares:
    """A panel of `position_shares`.

    title; by_position: shares by position, None if not measured; window: of the base, in tokens; of_all: the share of
    each type in all tokens, if known.
    """

    title: str
    by_position: pd.DataFrame | None = None
    window: int = 0
    of_all: Mapping[str, float] | None = None


def quoted_shares(title: str, shares: pd.Series, *, first: int, last: int, window: int) -> Shares:
    """A panel of a constant share for each type from position first to last, as quoted from a paper."""
    return Shares(title, pd.DataFrame([shares, shares], index=[first, last]), window)


def measured_shares(title: str, here: Analysis | None, window: int, runs: Sequence[Run]) -> Shares:
    """A panel of this analysis' shares by position, else of the last of the finished runs, else "not measured"."""
    if here is not None:
        ranking = here.ranking.set_index("type")["share_of_all"]
        return Shares(title, binned(here.by_position), window, ranking.to_dict())
    if not runs:
        return Shares(title)
    run = runs[-1]
    rows = run.table("shares").query("by == 'pos'")
    table = rows.pivot(index="position", columns="type", values="share")[rows["type"].unique()]
    ranking = run.table("rankings").query("by == 'pos' and positions == 'all'").set_index("type")["share_of_all"]
    return Shares(title, table, run.params.window, ranking.to_dict())


def position_shares(panels: Sequence[Shares], types: Sequence[str]) -> Figure:
    """Figure 4 of the paper: share of each type among the top tokens by position, a panel for each source.

    Dotted: the share of the type in all tokens, which it would have if top tokens were random. A type has the same
    colour in all panels. Each panel has its own scale; a panel without data says "not measured".
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 2.9), squeeze=False)
        for axis, panel in zip(axes[0], panels, strict=True):
            axis.set_title(panel.title)
            if panel.by_position is None:
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color="#777777")
                axis.set(xticks=[], yticks=[])
                continue
            _shares(axis, panel.by_position, types, anchors=types[:1], window=panel.window, of_all=panel.of_all)
    return figure


def _shares(
    axis: plt.Axes,
    table: pd.DataFrame,
    types: Sequence[str],
    *,
    anchors: Sequence[str],
    window: int,
    of_all: Mapping[str, float] | None = None,
) -> None:
    """Draw lines of shares by position, smoothed over a thirtieth of the positions."""
    smooth = (
        table.reindex(columns=list(types), fill_value=0.0)
        .rolling(max(1, len(table) // 30), center=True, min_periods=1)
        .mean()
    )
    others = itertools.cycle(zip(_OTHERS, itertools.cycle(("-", "--"))))
    for name in types:
        colour, line = (_ANCHOR, "-") if name in anchors else next(others)
        axis.plot(smooth.index, smooth[name], line, color=colour, lw=2 if name in anchors else 1.1, label=name)
        if of_all:
            axis.axhline(of_all.get(name, 0), color=colour, lw=0.9, ls=":")
    axis.axvline(window, color="black", lw=0.8, ls="--")
    axis.annotate(" base window", (window, 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=7)
    axis.set(xlabel="position index, tokens", ylabel="share of top tokens", ylim=(0, None))
    axis.margins(y=0.12)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def selections(kept: Mapping[str, Kept], most: int = 4096) -> Figure:
    """The part of a document that each selection keeps: kept sentences in blue, anchors as ticks, dark if kept.

    Only draws the first `most` tokens, and only counts anchors in these.
    """
    length = min(most, next(iter(kept.values())).length)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axis = plt.subplots(figsize=(10.5, 0.55 * len(kept) + 0.9))
        for row, each in enumerate(kept.values()):
            bars = list(zip(each.starts, each.sizes, strict=True))
            axis.broken_barh([(0, length)], (row - 0.3, 0.6), color="#E8E8E8")
            axis.broken_barh(bars, (row - 0.3, 0.6), color="#9DC6E0")
            anchors, dark = (places[places < length] for places in (each.anchors, each.kept_anchors))
            axis.plot(anchors, np.full(len(anchors), row), "|", ms=9, mew=0.7, color="#BBBBBB")
            axis.plot(dark, np.full(len(dark), row), "|", ms=9, mew=0.9, color="#00304F")
            note = f" {len(dark)} of {len(anchors)}"
            axis.annotate(note, (length, row), va="center", fontsize=8, annotation_clip=False)
        axis.set(yticks=range(len(kept)), yticklabels=list(kept), xlim=(0, length), xlabel="token of the document")
        axis.invert_yaxis()
        cut = f", its first {length:,} tokens" if length < each.length else ""
        axis.set_title(f"Kept (blue) of a document of {each.length:,} tokens{cut}; ticks: anchors, dark if kept")
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
    return figure
