"""Figures of position index transformation: positions of tokens, covered distances, and Figure 3 of the paper."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe.plots.drawing import describe, label_ends
from longrecipe.plots.style import PALETTE, STYLE, WIDTH_INCHES, colour, marker
from longrecipe.positions import coverage

_SHADES = [PALETTE[name] for name in ("blue", "orange", "green")]
_BOXES = [PALETTE[name] for name in ("sky", "orange", "purple")]


def placements(segment_lengths: Sequence[int], samples: Mapping[str, np.ndarray], target_length: int) -> Figure:
    """Where the tokens of a few short segments are in the target: a row of boxes for each sample, by name.

    A box with a number is a token, and the number its index in the sample. Segments have different colours.
    """
    segment = np.repeat(np.arange(len(segment_lengths)), segment_lengths)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.8 + 0.36 * len(samples)))
        for row, positions in enumerate(samples.values()):
            for place in range(target_length):
                axis.add_patch(plt.Rectangle((place - 0.5, row - 0.4), 1, 0.8, fc="white", ec="#CCCCCC", lw=0.8))
            for token, place in enumerate(positions):
                shade = _BOXES[segment[token] % len(_BOXES)]
                axis.add_patch(plt.Rectangle((place - 0.5, row - 0.4), 1, 0.8, fc=shade, ec="white", lw=0.8))
                axis.text(place, row, str(token), ha="center", va="center", fontweight="bold")
        axis.set(xlim=(-0.6, target_length - 0.4), ylim=(len(samples) - 0.5, -0.5), xlabel="position index")
        axis.set(xticks=range(target_length), yticks=range(len(samples)), yticklabels=list(samples))
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
        *first, last = segment_lengths
        lengths = f"{', '.join(map(str, first))} and {last}" if first else last
        title = f"Segments of {lengths} tokens stay whole and in order in {target_length} positions"
        describe(figure, "A row of boxes for each sample: positions of its tokens, a colour for each segment.", title)
    return figure


def position_maps(samples: Mapping[str, Sequence[np.ndarray]], target_length: int, n_columns: int = 3) -> Figure:
    """A panel for each method: position against token index of its first two samples. Dotted: contiguous positions.

    Inset: the first 40 tokens of the first sample, in which runs and jumps can be seen.
    """
    n_rows = -(-len(samples) // n_columns)
    with plt.rc_context(STYLE):
        size = WIDTH_INCHES * min(1, n_columns / 3), 2.1 * n_rows + 0.5
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, sharey=True, squeeze=False)
        for axis, (name, some) in zip(axes.flat, samples.items(), strict=False):
            _map(axis, some[:2], target_length, colours=(colour(name), "#9A9A9A"), labels=("one sample", "another"))
            axis.set_title(name, color=colour(name), fontweight="bold")
            inset = axis.inset_axes((0.06, 0.6, 0.38, 0.36))
            inset.plot(some[0][:40], ".", ms=2, color=colour(name))
            top = some[0][:40][-1]
            inset.set(xlim=(-1, 40), ylim=(-0.05 * top, 1.1 * top), xticks=[], yticks=[])
            inset.spines[:].set_visible(True)
            axis.xaxis.set_major_locator(plt.MaxNLocator(4))
        for axis in axes.flat[len(samples) :]:
            axis.axis("off")
        more = "grey: another sample; box: first 40 tokens; dotted: contiguous"
        figure.supxlabel(f"token index in the sample ({more})", fontsize=8.5)
        figure.supylabel("position index", fontsize=8.5)
        reach = {name: coverage.reach(some, target_length) for name, some in samples.items()}
        short = [f"{name} {100 * share:.0f} %" for name, share in reach.items() if share < 1]
        others = "all others 100 %" if short else "all 100 %"
        title = f"Samples that reach the last tenth of {target_length:,} positions: {', '.join([*short, others])}"
        drawn = "A panel for each method: position index against token index of two samples, one coloured and one grey."
        describe(figure, drawn, title)
    return figure


def position_map(samples: Sequence[np.ndarray], target_length: int, window: int | None = None) -> Figure:
    """Positions of the tokens of a few samples, and the distances that all samples cover. Dashed: the base's window."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 2.9))
        n = len(samples[0])
        labels = [f"sample {i + 1}" for i in range(3)]
        _map(left, samples[:3], target_length, colours=_SHADES, labels=labels)
        if window:
            left.axhline(window, color="black", lw=0.8, ls="--")
            label = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom", "fontsize": 8}
            left.annotate("base window", (1, window), **label)
        left.set(xlabel="token index in the sample", ylabel="position index", title="Positions of three samples")
        left.legend(markerscale=6, loc="upper left")
        counts = coverage.pair_counts(samples, target_length)
        right.plot(*_pairs(counts), color=PALETTE["blue"])
        right.plot([0, n, target_length], [n, 0, 0], color="black", lw=0.8, ls=":")
        right.set(xlabel="relative distance, tokens", ylabel="token pairs a sample", ylim=(0, None))
        by_all = 100 * coverage.distances_by(counts, len(counts))
        right.set_title(f"Pairs by distance; {len(counts)} samples show {by_all:.1f} %")
        right.annotate("contiguous (dotted)", (0.05 * n, 0.95 * n), (6, 0), textcoords="offset points", fontsize=8)
        mean = 100 * coverage.distances_by(counts, 1)
        title = f"One sample of {n:,} tokens shows {mean:.1f} % of all {target_length - 1:,} distances"
        drawn = "Left: position index against token index. Right: number of token pairs by relative distance."
        describe(figure, drawn, f"{title} (mean of {len(samples)})" if len(samples) > 1 else title)
    return figure


def distances(samples: Mapping[str, Sequence[np.ndarray]], target_length: int) -> Figure:
    """Left: token pairs by distance, mean over samples. Right: distances missing in the first 1, 2, ... samples."""
    missing = {}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 3.1))
        for name, some in samples.items():
            style = {"color": colour(name), "label": name, "lw": 2 if name == "longrecipe" else 1.2, "ms": 4}
            counts = coverage.pair_counts(some, target_length)
            left.plot(*_pairs(counts), marker=marker(name), markevery=(0.05, 0.15), **style)
            missed = 1 - coverage.distances_covered(counts)
            at = [i for i in range(len(some)) if (i + 1) & i == 0]
            right.plot(np.arange(1, len(some) + 1), missed, marker=marker(name), markevery=at, **style)
            missing[name] = missed[-1]
        left.set(xlabel="relative distance, tokens", ylabel="token pairs a sample", yscale="symlog", ylim=(0, None))
        left.set_title("Token pairs at each distance")
        right.set_xscale("log", base=2)
        right.xaxis.set_major_formatter("{x:.0f}")
        right.set_yscale("symlog", linthresh=1 / target_length)
        right.set(xlabel="samples", ylim=(0, 1), title="Share of distances that no sample showed")
        left_out = [f"{name} {100 * share:.1f} %" for name, share in missing.items() if share]
        title = f"After {len(some)} samples these still miss distances: {', '.join(left_out)}"
        drawn = "Left: token pairs by distance. Right: share of the distances missed by the number of samples."
        describe(figure, drawn, title if left_out else f"{len(some)} samples of every method show all distances")
        label_ends(right, [(len(some), share, name, colour(name)) for name, share in missing.items()])
    return figure


def figure_3(measured: pd.DataFrame, quoted: pd.DataFrame) -> Figure:
    """Mean distance of token pairs by target length: lines are measured here, crosses quoted from the paper.

    Args: measured: a column target and one for each method, in tokens; quoted: the same for methods of the paper.
    """
    names, last = measured.columns.drop("target"), measured.iloc[-1]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.4))
        for i, name in enumerate(names):
            # The first line is the widest, so that lines on top of each other are all visible.
            style = {"ms": 4, "lw": max(1.2, 5 - 1.6 * i), "color": colour(name), "label": name}
            axis.plot(measured["target"], measured[name], marker=marker(name), **style)
        for name in quoted.columns.drop("target"):
            style = {"color": colour(name), "ms": 9, "mew": 1.6, "label": f"{name}, quoted"}
            axis.plot(quoted["target"], quoted[name], "x", **style)
        axis.plot([0, last["target"]], [0, last["target"] / 3], color="black", lw=0.8, ls=":", label="T / 3")
        axis.set(
            xlabel="target length T, tokens", ylabel="mean distance of pairs, tokens", xlim=(0, None), ylim=(0, None)
        )
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter("{x:,.0f}")
        axis.annotate(
            "lines: measured; crosses: quoted from the paper; dotted: T / 3",
            (0.02, 0.93),
            fontsize=8,
            xycoords="axes fraction",
        )
        off = {name: 100 * (measured[name] / quoted[name] - 1).abs().max() for name in quoted.columns.drop("target")}
        largest = ", ".join(f"{name} {off[name]:.1f} %" for name in sorted(off, key=off.get))
        title = f"Largest difference from the paper: {largest}"
        describe(figure, "Mean distance of token pairs by target length; the paper's points are crosses.", title)
        label_ends(axis, [(last["target"], last[name], name, colour(name)) for name in names])
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
