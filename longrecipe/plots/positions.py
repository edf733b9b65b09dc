"""Figures of position index transformation: positions of tokens, covered distances, and Figure 3 of the paper."""

import itertools
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe.plots.style import STYLE, colour
from longrecipe.positions import coverage


def position_maps(samples: Mapping[str, Sequence[np.ndarray]], target_length: int, n_columns: int = 4) -> Figure:
    """A panel for each method: position against token index of its first two samples. Dotted: contiguous positions.

    Inset: the first 40 tokens of the first sample, in which runs and jumps can be seen.
    """
    n_rows = -(-len(samples) // n_columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            n_rows, n_columns, figsize=(2.45 * n_columns, 2.5 * n_rows), sharey=True, squeeze=False
        )
        for axis, (name, some) in itertools.zip_longest(axes.flat, samples.items(), fillvalue=(None, ())):
            if name is None:
                axis.axis("off")
                continue
            _map(axis, some[:2], target_length, colours=(colour(name), "#9A9A9A"), labels=("one sample", "another"))
            axis.set_title(name, color=colour(name), fontweight="bold")
            inset = axis.inset_axes((0.12, 0.6, 0.36, 0.33))
            inset.plot(some[0][:40], ".", ms=2, color=colour(name))
            top = some[0][:40][-1]
            inset.set(xlim=(-1, 40), ylim=(-0.05 * top, 1.1 * top))
            inset.set_title("first 40 tokens", fontsize=6.5, pad=2)
            inset.tick_params(labelsize=6, length=2, pad=1)
            inset.set_xticks([0, 20])
            inset.locator_params(axis="y", nbins=3)
        axes.flat[0].legend(markerscale=6, fontsize=7, loc="lower right", borderaxespad=0)
        for axis in axes[-1]:
            axis.set_xlabel("token index in the sample")
        for axis in axes[:, 0]:
            axis.set_ylabel("position index")
    return figure


def position_map(samples: Sequence[np.ndarray], target_length: int, window: int | None = None) -> Figure:
    """Positions of the tokens of a few samples, and the distances that all samples cover. Dashed: the base's window."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
        n = len(samples[0])
        colours = [f"C{i}" for i in range(3)]
        _map(left, samples[:3], target_length, colours=colours, labels=[f"sample {i + 1}" for i in range(3)])
        if window:
            left.axhline(window, color="black", lw=0.8, ls="--")
            label = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": 8}
            left.annotate("base window", (1, window), **label)
        left.set(xlabel="token index in the sample", ylabel="position index")
        left.set_title(f"Positions of {n:,} tokens in a window of {target_length:,}")
        left.legend(markerscale=6, fontsize=7, loc="upper left")
        counts = coverage.pair_counts(samples, target_length)
        right.plot(*_pairs(counts), color=colour("extended"), label="with these positions")
        right.plot([0, n, target_length], [n, 0, 0], color="black", lw=0.8, ls=":", label="contiguous")
        right.set(xlabel="relative distance, tokens", ylabel="token pairs a sample", ylim=(0, None))
        covered = coverage.distances_covered(counts)
        more = f", {len(samples)} samples {covered[-1]:.0%}" if len(samples) > 1 else ""
        right.set_title(f"Distances: one sample covers {covered[0]:.0%}{more}")
        right.legend(fontsize=7)
    return figure


def distances(samples: Mapping[str, Sequence[np.ndarray]], target_length: int) -> Figure:
    """Left: token pairs by distance, mean over samples. Right: distances missing in the first 1, 2, ... samples."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
        for name, some in samples.items():
            style = {"color": colour(name), "label": name, "lw": 2 if name == "longrecipe" else 1.2}
            counts = coverage.pair_counts(some, target_length)
            left.plot(*_pairs(counts), **style)
            right.plot(np.arange(1, len(some) + 1), 1 - coverage.distances_covered(counts), **style)
        left.set(xlabel="relative distance, tokens", ylabel="token pairs a sample", yscale="symlog", ylim=(0, None))
        left.set_title("Token pairs at each distance")
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter("{x:.0f}")
        right.set_yscale("symlog", linthresh=1 / target_length)
        right.set(xlabel="samples", ylabel="share of distances missed", ylim=(0, 1))
        right.set_title(f"Distances 1 to {target_length - 1:,} that no pair of tokens has")
        right.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def figure_3(measured: pd.DataFrame, quoted: pd.DataFrame) -> Figure:
    """Mean distance of token pairs by target length: lines are measured here, crosses quoted from the paper.

    Args: measured: a column target and one for each method, in tokens; quoted: the same for methods of the paper.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6, 3.4))
        for i, name in enumerate(measured.columns.drop("target")):
            # The first line is the widest, so that lines on top of each other are all visible.
            style = {"ms": 3, "lw": max(1.2, 5 - 1.6 * i), "color": colour(name), "label": name}
            axis.plot(measured["target"], measured[name], "o-", **style)
        for name in quoted.columns.drop("target"):
            style = {"color": colour(name), "ms": 9, "mew": 1.6, "label": f"{name}, quoted"}
            axis.plot(quoted["target"], quoted[name], "x", **style)
        axis.axline((0, 0), slope=1 / 3, color="black", lw=0.8, ls=":", label="T / 3")
        axis.set(
            xlabel="target length T, tokens", ylabel="mean distance of pairs, tokens", xlim=(0, None), ylim=(0, None)
        )
        axis.legend(fontsize=7, ncols=2)
    return figure


def _map(
    axis: Axes, samples: Sequence[np.ndarray], target_length: int, *, colours: Sequence[str], labels: Sequence[str]
) -> None:
    for i, (positions, shade, label) in enumerate(zip(samples, colours, labels, strict=False)):
        axis.plot(positions, ".", ms=1.2, color=shade, label=label, zorder=3 - i)
    axis.axline((0, 0), slope=1, color="black", lw=0.8, ls=":")
    axis.set(xlim=(0, 1.02 * len(samples[0])), ylim=(0, 1.03 * target_length))


def _pairs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances and the mean number of pairs per sample at each of them, averaged over ranges of distances."""
    target_length = counts.shape[1]
    edges = np.unique(np.linspace(1, target_length, 96, endpoint=False).astype(int))
    widths = np.diff(edges, append=target_length)
    return edges + widths / 2, np.add.reduceat(counts.mean(axis=0), edges) / widths
