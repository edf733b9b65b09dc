"""Figures of the token analysis: which tokens change, by passage, type and position, and which are selected."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from longrecipe.plots.drawing import describe, label_ends, nothing
from longrecipe.plots.style import PALETTE, STYLE, WIDTH_INCHES
from longrecipe.results import Run
from longrecipe.tokens import Analysis, Kept, binned

_ANCHOR, _OTHER = PALETTE["blue"], "#BBBBBB"
_LINES = {"vermillion": "-", "green": "--", "orange": "-", "purple": "--", "sky": "-", "grey": "--"}
# Width of a character of DejaVu Sans Mono (shipped with matplotlib), in units of the font size.
_ADVANCE = 0.602
# Light enough for black text.
_SHIFTS = ListedColormap(plt.get_cmap("YlOrRd")(np.linspace(0.12, 0.62, 128)))


def passage(
    pieces: Sequence[str],
    shift: np.ndarray,
    threshold: float,
    *,
    is_number: Sequence[bool],
    columns: int = 104,
    size: float = 8,
) -> Figure:
    """A text whose tokens are coloured by their shift from H to H', if it is at least the threshold. Numbers have an
    outline.

    Args:
        pieces: decoded tokens.
        shift: float [len(pieces)], in logits.
        threshold: in logits.
        is_number: bool [len(pieces)].
        columns: characters per line.
        size: of the font, in points.
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
    is_number, is_high = np.asarray(is_number, dtype=bool), np.asarray(shift) >= threshold
    width, text_height, above, below = columns * _ADVANCE * size / 72, (line + 1) * 1.65 * size / 72, 0.5, 0.62
    height = text_height + above + below
    scale = Normalize(threshold, max(float(np.quantile(shift, 0.99)), threshold + 1e-6), clip=True)
    with plt.rc_context({**STYLE, "figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=(width, height))
        axis = figure.add_axes((0, below / height, 1, text_height / height))
        axis.set(xlim=(-0.01 * columns, 0.99 * columns), ylim=(line + 1, 0))
        axis.axis("off")
        for (row, start, text), value, high, number in zip(places, shift, is_high, is_number, strict=True):
            if text.strip() and (high or number):
                skipped = len(text) - len(text.lstrip())
                box = (start + skipped, row + 0.08), len(text) - skipped, 0.84
                style = {"facecolor": _SHIFTS(scale(value)) if high else "none", "lw": 1.2 if number else 0}
                axis.add_patch(plt.Rectangle(*box, edgecolor=_ANCHOR if number else "none", **style))
            axis.text(start, row + 0.5, text, family="DejaVu Sans Mono", size=size, va="center", parse_math=False)
        bar = figure.add_axes((0.02, 0.38 / height, 0.4, 0.11 / height), label="<colorbar>")
        drawn = ScalarMappable(scale, _SHIFTS)
        figure.colorbar(drawn, cax=bar, orientation="horizontal", extend="max", label="shift of the token, logits")
        figure.text(0.48, 0.42 / height, "blue outline: a number", color=_ANCHOR, size=8, va="center")
    title = (
        f"{(is_high & is_number).sum()} of {is_number.sum()} numbers, and {100 * is_high.mean():.0f} % of all tokens, "
        f"shift by {threshold:.1f} logits or more"
    )
    describe(figure, "A passage of text; tokens with a large shift from H to H' are coloured by it.", title)
    return figure


def token_shift(analysis: Analysis | None, anchors: Sequence[str], *, most: int = 18) -> Figure:
    """Token types that change from H to H': lift and mean shift with intervals; anchors are blue.

    Only shows the first `most` types that are frequent enough to be anchors; a note if there is no analysis.
    """
    if analysis is None:
        return nothing("This method selects no sentences by anchors, so there is no token analysis.")
    ranking = analysis.ranking[analysis.ranking["frequent"]].head(most)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 0.9 + 0.17 * len(ranking)), sharey=True)
        colours = [_ANCHOR if name in anchors else _OTHER for name in ranking["type"]]
        for axis, column in zip(axes, ("lift", "mean_shift"), strict=True):
            low, high = (np.abs(ranking[column] - ranking[f"{column}_{end}"]) for end in ("low", "high"))
            axis.barh(ranking["type"], ranking[column], color=colours, xerr=[low, high], error_kw={"lw": 0.8})
            axis.grid(axis="y", visible=False)
        axes[0].invert_yaxis()
        axes[0].axvline(1, color="black", lw=0.8, ls=":")
        axes[0].set(xlabel="lift: share of top tokens / share of all tokens")
        axes[1].set(xlabel="mean shift $S_{H'} - S_H$, logits")
        first, other = ranking.iloc[0], ranking.loc[ranking["mean_shift"].idxmax()]
        title = f"Largest lift: {first['type']} ({first['lift']:.1f}). "
        title += f"Largest mean shift: {other['type']} ({other['mean_shift']:.1f} logits)"
        describe(figure, "Lift and mean shift of each type of token, with 95 % intervals; anchors are blue.", title)
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

    def beyond(self, name: str) -> float:
        """The mean share of a type at positions beyond the window; NaN if not measured."""
        if self.by_position is None or name not in self.by_position:
            return float("nan")
        return float(self.by_position.loc[self.by_position.index > self.window, name].mean())


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

    Dotted: the share of the first type in all tokens, which it would have if top tokens were random. A type has the
    same colour in all panels. Each panel has its own scale; a panel without data says "not measured".
    """
    looks = {types[0]: (_ANCHOR, "-", 2)}
    looks |= {name: (PALETTE[shade], line, 1.1) for name, (shade, line) in zip(types[1:], _LINES.items(), strict=False)}
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(WIDTH_INCHES, 2.6), squeeze=False)
        for axis, panel in zip(axes[0], panels, strict=True):
            axis.set_title(panel.title)
            if panel.by_position is None:
                axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center", color=PALETTE["grey"])
                axis.set(xticks=[], yticks=[])
            else:
                _shares(axis, panel, looks)
        axes[0, 0].set_ylabel("share of top tokens")
        measured = [panel for panel in panels if panel.by_position is not None]
        known = [f"{100 * panel.beyond(types[0]):.0f} % ({panel.title})" for panel in measured]
        drawn = f"Lines: share of {', '.join(types)} among the top tokens by position, a panel for each source."
        describe(figure, drawn, f"{types[0]} among top tokens beyond the base's window: {', '.join(known)}")
        figure.get_layout_engine().set(w_pad=0.06)
        figure.draw_without_rendering()
        for axis in axes[0]:
            lines = [line for line in axis.lines if line.get_label() in looks]
            ends = [(line.get_xdata()[-1], line.get_ydata()[-1], line.get_label(), line.get_color()) for line in lines]
            label_ends(axis, ends)
    return figure


def _shares(axis: plt.Axes, panel: Shares, looks: Mapping[str, tuple[str, str, float]]) -> None:
    """Draw lines of shares by position, smoothed over a thirtieth of the positions."""
    smooth = (
        panel.by_position.reindex(columns=list(looks), fill_value=0.0)
        .rolling(max(1, len(panel.by_position) // 30), center=True, min_periods=1)
        .mean()
    )
    for name, (colour, line, width) in looks.items():
        axis.plot(smooth.index, smooth[name], line, color=colour, lw=width, label=name)
    first = next(iter(looks))
    if panel.of_all:
        axis.axhline(panel.of_all.get(first, 0), color=_ANCHOR, lw=0.9, ls=":")
    axis.axvline(panel.window, color="black", lw=0.8, ls="--")
    axis.annotate(" window", (panel.window, 0.99), xycoords=("data", "axes fraction"), va="top", fontsize=8)
    axis.set(xlabel="position, tokens", ylim=(0, 1.15 * smooth.to_numpy().max()))
    axis.xaxis.set_major_locator(plt.MaxNLocator(4, steps=[1, 2, 5, 10]))
    axis.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")


def selections(kept: Mapping[str, Kept], most: int = 4096) -> Figure:
    """The part of a document that each selection keeps: kept sentences in blue, anchors as ticks, long if kept.

    Only draws the first `most` tokens, and only counts anchors in these.
    """
    length, counts = min(most, next(iter(kept.values())).length), {}
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.42 * len(kept) + 0.9))
        for row, (how, each) in enumerate(kept.items()):
            bars = list(zip(each.starts, each.sizes, strict=True))
            axis.broken_barh([(0, length)], (row - 0.3, 0.6), color="#E8E8E8")
            axis.broken_barh(bars, (row - 0.3, 0.6), color=PALETTE["sky"])
            anchors, kept_anchors = (places[places < length] for places in (each.anchors, each.kept_anchors))
            axis.plot(anchors, np.full(len(anchors), row), "|", ms=5, mew=0.7, color=PALETTE["grey"])
            axis.plot(kept_anchors, np.full(len(kept_anchors), row), "|", ms=11, mew=0.9, color="black")
            counts[how] = f"{len(kept_anchors)} of {len(anchors)}"
            axis.annotate(f" {counts[how]}", (length, row), va="center", fontsize=8, annotation_clip=False)
        axis.set(yticks=range(len(kept)), yticklabels=list(kept), xlim=(0, length), xlabel="token of the document")
        axis.invert_yaxis()
        axis.spines["left"].set_visible(False)
        axis.tick_params(axis="y", length=0)
        cut = f" (its first {length:,} tokens)" if length < each.length else ""
        title = f"Anchors kept: {', '.join(f'{how} {count}' for how, count in counts.items())}"
        drawn = (
            f"A document of {each.length:,} tokens{cut}, a row for each selection. Blue: kept sentences. "
            "Ticks: anchors, long and black if kept."
        )
        describe(figure, drawn, title)
    return figure


def mean_weights(table: pd.DataFrame) -> Figure:
    """The mean loss weight of each type of token, a mark for each scheme.

    Args:
        table: of `recipe.weights_by_type`: share of all tokens, then a column for each scheme.
    """
    schemes, share = list(table.columns[1:]), table["share of all tokens"]
    shades = [PALETTE[name] for name in ("blue", "green", "orange", "purple")]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.9 + 0.36 * len(table)))
        for i, (scheme, shade, mark) in enumerate(zip(schemes, shades, "os^D", strict=False)):
            y = np.arange(len(table)) + 0.16 * (i - (len(schemes) - 1) / 2)
            axis.plot(table[scheme], y, mark, color=shade, ms=5, label=scheme)
        axis.axvline(1, color="black", lw=0.8, ls="--")
        axis.set(xscale="log", xlabel="mean weight of the loss (dashed: all tokens count the same)")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xticks([0.5, 1, 2, 5, 10])
        axis.minorticks_off()
        axis.set_yticks(range(len(table)), [f"{name} ({part:.1%})" for name, part in share.items()])
        axis.set_ylim(len(table) - 0.4, -0.6)
        axis.grid(axis="y", visible=False)
        figure.legend(loc="outside lower left", ncols=len(schemes))
        # Of types with equal weights, the more frequent one.
        largest = table[schemes].idxmax().groupby(table[schemes].idxmax()).groups
        found = "; ".join(f"{name} ({', '.join(those)})" for name, those in largest.items())
        drawn = f"Mean loss weight by type of token for {', '.join(schemes)}."
        describe(figure, drawn, f"The largest mean weight of each scheme: {found}")
    return figure
