"""Figures of notebook 05: memory by content, cost by target length, longest samples, and measured steps of the mini."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe.cost import LONGEST
from longrecipe.plots.style import STYLE, colour

# Okabe and Ito's colours, by content of memory and purpose of FLOPs.
PART_COLOURS = {
    "weights": "#0072B2",
    "gradients": "#56B4E9",
    "optimizer": "#009E73",
    "checkpoints": "#E69F00",
    "runtime": "#999999",
    "block": "#D55E00",
    "logits": "#CC79A7",
    "linear": "#0072B2",
    "attention": "#E69F00",
    "head": "#999999",
}
_LABELS = {
    "optimizer": "optimizer's moments",
    "checkpoints": "activations kept",
    "runtime": "CUDA's runtime",
    "block": "current block",
    "linear": "linear layers",
    "head": "LM head",
}


def memory_parts(table: pd.DataFrame, cards: Mapping[str, float]) -> Figure:
    """GB at the peak of a step by content, a bar for each setup, and a line for the memory of each card in GB.

    Args: table: of `experiments.table4.memory`; cards: GB by name. Bars beyond the axis show their value; x marks a
    measured peak.
    """
    end = 1.6 * max(cards.values())
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.6, 0.42 * len(table) + 1.5))
        for y, (_, row) in enumerate(table.iterrows()):
            # The current block and the logits are never in memory together.
            last, left = max(("block", "logits"), key=lambda part: row[part]), 0.0
            for part in ("weights", "gradients", "optimizer", "checkpoints", "runtime", last):
                axis.barh(y, row[part], left=left, color=PART_COLOURS[part], height=0.62)
                left += row[part]
            text, shift = (f"{left:.0f} GB", 4) if left <= end else (f"up to {left:.0f} GB ▸", -4)
            box, side = {"fc": "white", "ec": "none", "pad": 0.8}, "left" if left <= end else "right"
            at = {"xy": (min(left, end), y), "xytext": (shift, 0), "textcoords": "offset points"}
            axis.annotate(text, **at, va="center", ha=side, fontsize=8, bbox=box)
            if not isinstance(row["measured peak"], str):
                axis.plot(row["measured peak"], y, "x", color="black", ms=7, mew=1.8)
        for name, size in cards.items():
            axis.axvline(size, color="black", lw=0.9, ls="--")
            axis.annotate(f"{name} card", (size, -0.55), (3, 2), textcoords="offset points", fontsize=8, va="bottom")
        axis.set_yticks(range(len(table)), table.index)
        known = [value for value in table["measured peak"] if not isinstance(value, str)]
        marked = "x: peak measured on a GPU" if known else "not measured on a GPU"
        axis.set(xlim=(0, 1.08 * end), ylim=(len(table) - 0.4, -1.15), xlabel=f"GB on one GPU, modelled; {marked}")
        axis.grid(axis="y", visible=False)
        _legend(figure, axis, ("weights", "gradients", "optimizer", "checkpoints", "runtime", "block", "logits"))
    return figure


def _legend(figure: Figure, axis: Axes, parts: tuple[str, ...]) -> None:
    for part in parts:
        axis.bar(0, 0, color=PART_COLOURS[part], label=_LABELS.get(part, part))
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=len(parts), fontsize=7.5)


def cost_by_length(
    table: pd.DataFrame, families: Mapping[str, pd.DataFrame], target_length: int, *, gpu: str
) -> Figure:
    """The cost of whole (FLT) and short samples by target length: FLOPs, hours, and the ratio of FLOPs by family.

    Args: table: of `experiments.table4.by_length` for the model; families: the same for each family, by name; gpu: its
    name, for the title.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(11.5, 3.2))
        for sample, rows in table.groupby("sample", sort=False):
            shade = colour("FLT" if sample == "FLT" else "LongRecipe")
            name = sample if sample == "FLT" else f"{sample}: LongRecipe, PoSE, RPES"
            for axis, column in zip(axes, ("PFLOP", "hours"), strict=False):
                axis.plot(rows["target"], rows[column], "o-", ms=3.5, color=shade, label=name)
        for name, each in families.items():
            by = each.pivot(index="target", columns="sample", values="PFLOP")
            share = by.drop(columns="FLT").iloc[:, 0] / by["FLT"]
            axes[2].plot(share.index, share, "o-", ms=3.5, color=colour(name), label=name)
        ratio = (table["n"] / table["target"]).min()
        for level, text, y in ((ratio, "linear layers alone", 2), (ratio**2, "attention alone", -9)):
            _line(axes[2], level, f"{level:.0%}: {text}", at=(1, level), offset=(0, y), ha="right")
        _line(axes[1], 24, "one day", at=(0, 24), offset=(3, 2))
        titles = "FLOPs of a sample", f"stage 1 on one {gpu}", "short sample / FLT"
        units = "PFLOP (1e15), modelled", "hours, modelled", "ratio of FLOPs, modelled"
        for axis, title, unit in zip(axes, titles, units, strict=True):
            _lengths(axis, table["target"])
            axis.axvline(target_length, color="black", lw=0.8, ls=":")
            axis.set(title=title, ylabel=unit, xlabel="target length, tokens (dotted: chosen)")
            axis.legend(fontsize=7)
        for axis in axes[:2]:
            axis.set_yscale("log")
        axes[2].set_ylim(0, max(0.34, 1.1 * ratio))
    return figure


def _line(axis: Axes, level: float, text: str, *, at: tuple, offset: tuple, **style) -> None:
    """Draw a dashed horizontal line with a label; at: a share of the width and a level, offset: in points."""
    axis.axhline(level, color="black", lw=0.9, ls="--")
    axis.annotate(text, at, offset, ("axes fraction", "data"), "offset points", fontsize=7, **style)


def _lengths(axis: Axes, lengths: pd.Series) -> None:
    """Set a logarithmic axis with ticks at all lengths that are a power of two times the shortest."""
    axis.set_xscale("log")
    doubled = [x for x in sorted(set(lengths)) if (x // min(lengths)).bit_count() == 1 and x % min(lengths) == 0]
    axis.set_xticks(doubled, [_short(x) for x in doubled], fontsize=7.5, minor=False)
    axis.minorticks_off()


def _short(tokens: float) -> str:
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return f"{tokens:g}"


def flop_parts(table: pd.DataFrame) -> Figure:
    """FLOPs of a sample by purpose, in percent of FLT's at the same target. Left bars: FLT, right bars: short samples.

    Args: table: of `experiments.table4.by_length`.
    """
    parts, targets = ("linear", "attention", "head"), sorted(set(table["target"]))
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(7.0, 1.05 * len(targets)), 3.4))
        whole = table[table["sample"] == "FLT"].set_index("target")["PFLOP"]
        for _, row in table.iterrows():
            short = row["sample"] != "FLT"
            x, bottom = targets.index(row["target"]) + (0.2 if short else -0.2), 0.0
            for part in parts:
                share = 100 * row[part] / whole[row["target"]]
                axis.bar(x, share, 0.36, bottom, color=PART_COLOURS[part], alpha=1.0 if short else 0.55)
                bottom += share
            if short:
                axis.annotate(
                    f"{bottom:.0f} %", (x, bottom), (0, 2), textcoords="offset points", ha="center", fontsize=8
                )
        ratio = next(sample for sample in table["sample"] if sample != "FLT")
        axis.set_xticks(range(len(targets)), [_short(target) for target in targets])
        axis.set(xlabel=f"target length, tokens (pale: FLT; dark: {ratio} of its tokens)", ylim=(0, 108))
        axis.set_ylabel("percent of FLT's FLOPs, modelled")
        axis.grid(axis="x", visible=False)
        _legend(figure, axis, parts)
    return figure


def longest_samples(table: pd.DataFrame, target_length: int, short: int) -> Figure:
    """The longest sample that fits, by card and model: as set up (dark) and with all savings (pale).

    Args: table: of `experiments.table4.longest`; target_length, short: tokens of a whole and of a short sample, drawn
    as lines.
    """
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(8.6, 0.3 * len(table) + 1.2))
        for y, ((model, _), row) in enumerate(table.iterrows()):
            most = row["sample, all savings"]
            for key, alpha in (("all savings", 0.35), ("as set up", 1.0)):
                axis.barh(y, row[f"sample, {key}"], color=colour(model), alpha=alpha, height=0.7)
            box = {"fc": "white", "ec": "none", "pad": 0.5}
            text = f"{most:,.0f}" + (" or more" if most == LONGEST else "") if most else "nothing fits"
            axis.annotate(text, (most, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5, bbox=box)
        for length, name, y in ((short, "LongRecipe", -1.05), (target_length, "FLT", -0.5)):
            axis.axvline(length, color="black", lw=0.9, ls="--")
            axis.annotate(f"{name}: {length:,}", (length, y), (3, 2), textcoords="offset points", fontsize=7.5)
        axis.set_yticks(range(len(table)), [f"{model}, {card}" for model, card in table.index])
        axis.set(
            ylim=(len(table) - 0.4, -1.5), xlabel="longest sample, tokens, modelled; dark: as set up, pale: all savings"
        )
        axis.set_xlim(0, 1.18 * max(target_length, table["sample, all savings"].max()))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="y", visible=False)
    return figure


def step_times(steps: pd.DataFrame, ratios: pd.DataFrame) -> Figure:
    """Seconds per step of the mini by target, measured (points) and modelled (dashed), and the ratio of short to whole.

    Args: steps, ratios: of `experiments.table4_claims.mini_steps` and `mini_ratios`; if empty, the figure says "not
    measured".
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.3))
        for name, rows in steps.groupby("method", sort=False):
            left.plot(rows["target"], rows["measured"], "o-", ms=4, color=colour(name), label=f"{name}, measured")
            if name in ("FLT", "LongRecipe"):
                left.plot(rows["target"], rows["modelled"], "--", lw=1.2, color=colour(name), label=f"{name}, modelled")
        for column in [column for column in ratios if " / FLT" in column]:
            name, _, source = column.partition(" / FLT, ")
            style = {"measured": "o-", "time model": "--", "FLOPs": ":"}[source]
            right.plot(ratios.index, ratios[column], style, ms=4, color=colour(name), label=f"{name}, {source}")
        for axis, y in ((left, "seconds per step of 8 samples"), (right, "ratio to FLT")):
            axis.set(xlabel="target length, tokens", ylabel=y)
            if len(steps):
                _lengths(axis, steps["target"])
                axis.legend(fontsize=7)
            else:
                axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        left.set_yscale("log")
        right.set_ylim(0, None if not len(ratios) else 1.1 * float(np.nanmax(ratios.filter(like=" / FLT").to_numpy())))
    return figure
