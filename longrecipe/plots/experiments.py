"""Figures of the experiments: scores by method, cost, token ratio, stage and merge weight."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe.plots.style import STYLE, colour
from longrecipe.plots.training import depth_heatmap


def _points(axis: Axes, x: np.ndarray, table: pd.DataFrame, *, column: str, colour: str, **style) -> None:
    """Plot the means of a column of `over_seeds` with their intervals."""
    mean, low, high = (table[column, kind].to_numpy(dtype=float) for kind in ("mean", "low", "high"))
    error = np.nan_to_num([mean - low, high - mean])
    axis.errorbar(x, mean, yerr=error, color=colour, capsize=2, elinewidth=0.9, **{"fmt": "o", "ms": 5} | style)


def methods(ours: Mapping[str, pd.DataFrame], quoted: Mapping[str, pd.Series], column: str = "NIAH(M)") -> Figure:
    """A score of every method: ours with intervals over seeds (filled), and the paper's (hollow).

    Args: ours: a table of `over_seeds` for each panel, by title; quoted: scores of the paper by the same titles, with
    the same names of methods.
    """
    with plt.rc_context(STYLE):
        widths = [0.9 + 0.55 * len(table) for table in ours.values()]
        size = {"figsize": (sum(widths), 3.3), "width_ratios": widths}
        figure, axes = plt.subplots(1, len(ours), sharey=True, squeeze=False, **size)
        for axis, (title, table) in zip(axes[0], ours.items(), strict=True):
            for i, name in enumerate(table.index):
                _points(axis, np.array([i - 0.1]), table.loc[[name]], column=column, colour=colour(name), ms=7)
                value = quoted[title].get(name, float("nan"))
                axis.plot(i + 0.15, value, "o", ms=7, mfc="white", mec=colour(name), mew=1.5)
            axis.set_xticks(range(len(table)), table.index, rotation=30, ha="right")
            axis.set(title=title, ylim=(-4, 104))
        axes[0, 0].set_ylabel(f"{column}, percent")
        axes[0, -1].plot([], [], "o", color="grey", ms=7, label="measured here, 95 % over seeds")
        axes[0, -1].plot([], [], "o", mfc="white", mec="grey", mew=1.5, ms=7, label="quoted from the paper")
        figure.legend(fontsize=7, loc="outside upper center", ncols=2)
    return figure


def depth_maps(depths: pd.DataFrame) -> Figure:
    """A heatmap for each method: recall by text length and depth of the fact. Args: depths: of `tables.depths`."""
    names = list(dict.fromkeys(depths["name"]))
    labels = [f"{20 * i} to {20 * i + 20} %" for i in range(5)]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(1, len(names), figsize=(1.2 + 2.1 * len(names), 2.6), sharey=True, squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            table = depths[depths["name"] == name].pivot(index="depth", columns="length", values="score")
            table = table.reindex(range(5)).set_axis(labels)
            depth_heatmap(axis, table, name)
        axes[0, 0].set_ylabel("depth of the fact")
    return figure


def cost(table: pd.DataFrame, lines: Mapping[str, pd.DataFrame], x: str, *, column: str = "NIAH(M)") -> Figure:
    """Long-context score against the cost of a run: a point for each method, a line over token ratios for each variant.

    Args: table: `over_seeds` by name, of both columns; lines: such tables by ratio, by name, with FLT as ratio 1.0; x:
    the column of the cost, on a logarithmic axis. The RoPE rule alone costs nothing and is a horizontal line.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.7))
        for name, rows in lines.items():
            style = {"fmt": "o-" if name == "LongRecipe" else "s--", "ms": 4, "lw": 1.3}
            _points(axis, rows[x, "mean"].to_numpy(), rows, column=column, colour=colour(name), label=name, **style)
            for ratio, at, y in zip(rows.index, rows[x, "mean"], rows[column, "mean"], strict=True):
                if name == "LongRecipe":
                    label = "FLT" if ratio == 1 else f"{ratio:.0%}"
                    axis.annotate(label, (at, y), (-4, 4), textcoords="offset points", fontsize=7, ha="right")
        for name in table.index.difference(list(lines), sort=False):
            rows = table.loc[[name]]
            if name == "RoPE rule alone":
                axis.axhline(rows[column, "mean"].item(), color=colour(name), lw=1.0, ls=":", label=name)
                continue
            _points(axis, rows[x, "mean"].to_numpy(), rows, column=column, colour=colour(name), ms=7, label=name)
        axis.set(xscale="log", xlabel=x, ylabel=f"{column} at the target, percent")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xticks([2, 5, 10, 20, 50, 100])
        axis.minorticks_off()
        axis.legend(fontsize=7, loc="lower right")
    return figure


def ratios(lines: Mapping[str, pd.DataFrame], quoted: pd.DataFrame, column: str = "NIAH(M)") -> Figure:
    """Figure 2: scores by the tokens of a sample, in percent of the target. Left: ours, right: the paper's.

    Args: lines: tables of `over_seeds` by ratio, by name; quoted: fig2_token_ratio of the paper.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0))
        for name, rows in lines.items():
            style = {"fmt": "o-" if name == "LongRecipe" else "s--", "ms": 4, "lw": 1.3}
            _points(left, 100 * rows.index.to_numpy(), rows, column=column, colour=colour(name), label=name, **style)
        left.set(title="measured here, mini model", ylabel=f"{column}, percent", ylim=(-4, 104))
        left.legend(fontsize=7, loc="lower right")
        for key, name in (("niah_m", "NIAH(M)"), ("ruler", "RULER"), ("longbench", "LongBench")):
            right.plot(quoted["ratio_percent"], quoted[key], "o-", ms=4, mfc="white", label=name)
        right.set(title="quoted from the paper, Llama-3-8B to 80k", ylabel="score, percent")
        right.legend(fontsize=7)
        for axis in (left, right):
            axis.set(xscale="log", xlabel="tokens of a sample, percent of the target")
            axis.set_xticks([5, 10, 20, 30, 40, 100], ["5", "10", "20", "30", "40", "100"], minor=False)
            axis.minorticks_off()
    return figure


def stages(table: pd.DataFrame, columns: list[str]) -> Figure:
    """Table 3 as a figure: scores after each stage in percent of the base, a panel for each score, grouped by method.

    Args: table: `over_seeds` by name and stage; columns: the scores.
    """
    names, kinds = (list(dict.fromkeys(table.index.get_level_values(i))) for i in range(2))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(columns), figsize=(3.1 * len(columns), 2.9), squeeze=False)
        for axis, column in zip(axes[0], columns, strict=True):
            for i, stage in enumerate(kinds):
                rows = table.xs(stage, level=1)
                x = np.array([names.index(name) for name in rows.index]) + 0.22 * (i - 1)
                _points(axis, x, rows, column=column, colour=colour(stage), label=stage)
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axis.set_title(column)
        axes[0, 0].set_ylabel("percent")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7, loc="outside upper center", ncols=len(kinds))
    return figure


def fronts(rows: pd.DataFrame, x: str = "perplexity kept", y: str = "NIAH(M)") -> Figure:
    """Long-context score against general score by merge weight. Left: methods and rules, right: replay variants.

    Args: rows: `tables.fronts`, with name, rule, weight, replay and the mean over seeds of both scores; x, y: columns
    of the scores. Points further up and to the right are better.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.4), sharey=True)
        default = rows[rows["replay"] == rows["replay"].iloc[0]]
        for (name, rule), line in default.groupby(["name", "rule"], sort=False):
            style = {"ls": "-" if rule == "spare_qk" else ":", "marker": "o", "ms": 4, "lw": 1.2}
            left.plot(line[x], line[y], color=colour(name), label=f"{name}, {rule}", **style)
        ours = rows[(rows["name"] == "LongRecipe") & (rows["rule"] == "spare_qk")]
        for (replay, line), shade in zip(
            ours.groupby("replay", sort=False), sns.color_palette("colorblind"), strict=False
        ):
            right.plot(line[x], line[y], "o-", ms=4, lw=1.2, color=shade, label=replay)
        for axis, title in ((left, "methods; solid: queries and keys spared"), (right, "LongRecipe, by replay")):
            axis.set(title=title, xlabel=f"{x}, percent of the base")
            axis.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        left.set_ylabel(f"{y} at the target, percent")
        for _, point in ours[ours["replay"] == rows["replay"].iloc[0]].iterrows():
            at = (point[x], point[y])
            right.annotate(f"{point['weight']:g}", at, (0, 6), textcoords="offset points", fontsize=7, ha="center")
    return figure
