"""Drawing that several figures share: titles with alt text, direct labels, colour bars, means with intervals."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from longrecipe.plots.style import DPI, STYLE, WIDTH_INCHES, colour

# Characters of a bold title of 10 points in an inch.
_TITLE_DENSITY = 11.5


def describe(figure: Figure, drawn: str, title: str = "") -> None:
    """Give a figure its title and its alt text, which is the title and then what is drawn.

    Args:
        drawn: one or two sentences on the axes and curves, for readers who cannot see the figure.
        title: the finding, computed from the data that is drawn; left aligned and wrapped. Empty: no title.
    """
    if title:
        lines = textwrap.fill(title, int(_TITLE_DENSITY * figure.get_figwidth()))
        figure.suptitle(lines, x=0.01, ha="left", fontsize=10, fontweight="bold")
    figure.set_label(f"{title.rstrip('.')}. {drawn}" if title else drawn)


def label_ends(axis: Axes, ends: Sequence[tuple[float, float, str, str]], *, size: float = 8) -> list[Annotation]:
    """Write labels to the right of the ends of lines, instead of a legend, moved up or down until none overlap.

    Call it after everything else is drawn and the limits of the axes are set.

    Args:
        ends: x and y of the end of a line, its label and its colour.
        size: of the font, in points.
    """
    if not ends:
        return []
    axis.figure.draw_without_rendering()
    to_points = 72 / axis.figure.dpi
    heights = np.array([axis.transData.transform((x, y))[1] for x, y, _, _ in ends]) * to_points
    lines = np.array([text.count("\n") + 1 for _, _, text, _ in ends])
    moved = _apart(heights, 1.25 * size * lines) - heights
    return [
        axis.annotate(
            text,
            (x, y),
            (7, move),
            textcoords="offset points",
            va="center",
            color=shade,
            fontsize=size,
            annotation_clip=False,
        )
        for (x, y, text, shade), move in zip(ends, moved, strict=True)
    ]


def _apart(places: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Centres of intervals of the given sizes, as near to places as possible, in the same order without overlap.

    This is isotonic regression of places less the room that the intervals below take, by pooling adjacent violators.
    """
    order = np.argsort(places, kind="stable")
    room = np.cumsum(sizes[order]) - sizes[order] / 2
    blocks: list[tuple[float, int]] = []
    for value in places[order] - room:
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (low, n), (high, m) = blocks[-2:]
            blocks[-2:] = [((n * low + m * high) / (n + m), n + m)]
    found = np.empty(len(places))
    found[order] = np.repeat([value for value, _ in blocks], [n for _, n in blocks]) + room
    return found


def colour_bar(figure: Figure, axes: Sequence[Axes], label: str, *, drawn: ScalarMappable) -> Colorbar:
    """A colour bar next to axes, for colours that stand for numbers.

    Args:
        label: the quantity and its unit.
        drawn: what is coloured, such as `axis.collections[0]`.
    """
    bar = figure.colorbar(drawn, ax=list(axes), pad=0.015, fraction=0.03, aspect=25)
    bar.set_label(label)
    bar.outline.set_visible(False)
    return bar


def points(axis: Axes, x: np.ndarray, found: pd.DataFrame, **style) -> None:
    """Draw means with their intervals on an axis.

    Args:
        x: a place for each row.
        found: the columns mean, low and high; rows without an interval have NaN.
        style: of `Axes.errorbar`.
    """
    mean, low, high = (found[kind].to_numpy(dtype=float) for kind in ("mean", "low", "high"))
    error = np.nan_to_num([mean - low, high - mean])
    axis.errorbar(x, mean, yerr=error, **{"fmt": "o", "ms": 5, "capsize": 2, "elinewidth": 0.9} | style)


def depth_heatmap(axis: Axes, table: pd.DataFrame, title: str) -> ScalarMappable:
    """Draw a heatmap of scores in 0..1 by depth (rows) and text length in tokens (columns) on an axis.

    Returns what is coloured, for `colour_bar`.
    """
    # Seaborn writes dark text on light cells and white text on dark ones.
    sns.heatmap(
        table, ax=axis, vmin=0, vmax=1, cmap="viridis", annot=True, fmt=".2f", cbar=False, annot_kws={"size": 8}
    )
    axis.set(title=title, xlabel="", ylabel="")
    axis.tick_params(length=0, rotation=0)
    axis.grid(visible=False)
    return axis.collections[0]


def depth_labels(count: int = 5) -> list[str]:
    """The names of equal ranges of depth, such as `0 to 20 %`, from the start of a text to its end."""
    return [f"{100 * i / count:.0f} to {100 * (i + 1) / count:.0f} %" for i in range(count)]


def depth_heatmaps(tables: Mapping[str, pd.DataFrame], what: str = "recall") -> Figure:
    """A heatmap of each table of scores in 0..1 by depth (rows) and text length (columns), with one colour bar.

    Args:
        tables: by their titles, in the colour of that name; with the same rows and columns.
        what: the score.
    """
    n_columns = 2 if len(tables) in (2, 4) else min(3, len(tables))
    n_rows = -(-len(tables) // n_columns)
    size = (1.6 + 1.87 * n_columns if n_columns < 3 else WIDTH_INCHES, 0.9 + 1.75 * n_rows)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, sharex=True, sharey=True, squeeze=False)
        for axis, (name, table) in zip(axes.flat, tables.items(), strict=False):
            drawn = depth_heatmap(axis, table, name)
            axis.title.set(color=colour(name), fontweight="bold")
        for axis in axes.flat[len(tables) :]:
            axis.axis("off")
        figure.supxlabel("text length, tokens", fontsize=8.5)
        figure.supylabel("depth of the fact in the text", fontsize=8.5)
        colour_bar(figure, axes.flat, what, drawn=drawn)
    return figure


def nothing(text: str) -> Figure:
    """A figure that says that there is nothing to draw, and why."""
    figure = plt.figure(figsize=(WIDTH_INCHES, 0.5), dpi=DPI)
    figure.text(0.01, 0.5, text, va="center", fontsize=9, color="#555555")
    describe(figure, text)
    return figure
