"""Figures of notebook 05: memory by content, cost by target length, longest samples, and price."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe.cost import LONGEST
from longrecipe.experiments.table4.tables import PARTS, rounded
from longrecipe.plots import PALETTE, STYLE, WIDTH_INCHES, colour, describe, label_ends, marker

_PART_COLOURS = dict(zip(PARTS, ("blue", "sky", "green", "orange", "vermillion", "grey"), strict=True))
_FLOP_COLOURS = {"linear": "blue", "attention": "orange", "head": "grey"}
_FLOP_NAMES = {"linear": "linear layers", "attention": "attention", "head": "LM head"}
_BOX = {"fc": "white", "ec": "none", "pad": 0.8}


def memory_parts(table: pd.DataFrame, cards: Mapping[str, float]) -> Figure:
    """GB at the peak of a step by content, a bar for each setup, and a line for the memory of each card in GB.

    Bars beyond the axis show their value; x marks the measured peak of a step of one batch.

    Args:
        table: of `experiments.table4.memory`.
        cards: GB by name.
    """
    end = 1.6 * max(cards.values())
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.36 * len(table) + 1.8))
        for y, (_, row) in enumerate(table.iterrows()):
            left = 0.0
            for part in PARTS:
                axis.barh(y, row[part], left=left, color=PALETTE[_PART_COLOURS[part]], height=0.62)
                left += row[part]
            text, shift = (f"{rounded(left)} GB", 4) if left <= end else (f"up to {rounded(left)} GB ▸", -4)
            side = "left" if left <= end else "right"
            at = {"xy": (min(left, end), y), "xytext": (shift, 0), "textcoords": "offset points"}
            axis.annotate(text, **at, va="center", ha=side, fontsize=8, bbox=_BOX)
            if not isinstance(row["measured, one batch"], str):
                axis.plot(row["measured, one batch"], y, "x", color="black", ms=7, mew=1.8)
        for name, size in cards.items():
            axis.axvline(size, color="black", lw=0.9, ls="--")
            axis.annotate(name, (size, -0.55), (3, 2), textcoords="offset points", fontsize=8, va="bottom")
        axis.set_yticks(range(len(table)), table.index)
        known = [value for value in table["measured, one batch"] if not isinstance(value, str)]
        marked = "x: step of one batch, measured" if known else "no peak was measured on a GPU"
        axis.set(xlim=(0, 1.08 * end), ylim=(len(table) - 0.4, -1.15), xlabel=f"GB on one GPU, modelled; {marked}")
        axis.grid(axis="y", visible=False)
        _legend(axis, _PART_COLOURS)
        peaks, usual = table["peak"], table["peak"].iloc[0]
        fits = [name for name, size in cards.items() if usual <= size]
        title = (
            f"As set up, training needs {rounded(usual)} GB, which fits {'a card of ' + fits[0] if fits else 'no card'}"
        )
        if (more := peaks[peaks > 1.05 * usual]).size:
            title += f"; with one of {len(more)} savings switched off, {rounded(more.min())} GB or more"
        drawn = (
            f"Stacked bars for {len(table)} setups, by what the memory holds, with lines at the memory of the cards."
        )
        describe(figure, drawn, title)
    return figure


def _legend(axis: Axes, colours: Mapping[str, str], names: Mapping[str, str] | None = None) -> None:
    for part, shade in colours.items():
        axis.bar(0, 0, color=PALETTE[shade], label=(names or {}).get(part, part))
    style = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "columnspacing": 1.2, "handlelength": 1.2}
    axis.legend(ncols=len(colours), **style)


def cost_by_length(
    table: pd.DataFrame, families: Mapping[str, pd.DataFrame], target_length: int, *, gpu: str
) -> Figure:
    """The cost of whole (FLT) and short samples by target length: FLOPs, hours, and the ratio of FLOPs by family.

    Args:
        table: of `experiments.table4.by_length` for the model.
        families: the same for each family, by name.
        gpu: its name, for a panel's title.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH_INCHES, 3.0))
        ends: list[list] = [[], [], []]
        for sample, rows in table.groupby("sample", sort=False):
            name = "FLT" if sample == "FLT" else "LongRecipe"
            for axis, column, end in zip(axes, ("PFLOP", "hours"), ends, strict=False):
                axis.plot(rows["target"], rows[column], marker=marker(name), ms=4, color=colour(name))
                end.append((*rows[["target", column]].iloc[-1], sample, colour(name)))
        shares = {name: _share(each) for name, each in families.items()}
        for name, share in shares.items():
            axes[2].plot(share.index, 100 * share, marker=marker(name), ms=4, color=colour(name))
            ends[2].append((share.index[-1], 100 * share.iloc[-1], name, colour(name)))
        ratio = (table["n"] / table["target"]).min()
        for level, text, y in ((ratio, "linear layers alone", 3), (ratio**2, "attention alone", -10)):
            _line(axes[2], 100 * level, f"{level:.0%}: {text}", y)
        _line(axes[1], 24, "one day", 3)
        titles = "FLOPs of a sample, PFLOP", f"hours of stage 1, {gpu}", "FLOPs, percent of FLT's"
        for axis, title in zip(axes, titles, strict=True):
            length_ticks(axis, table["target"], every=2)
            axis.axvline(target_length, color="black", lw=0.8, ls=":")
            axis.set_title(title, fontsize=8.5)
            axis.set_xlabel("target, tokens")
        for axis in axes[:2]:
            axis.set_yscale("log")
        axes[2].set_ylim(0, max(34, 110 * ratio))
        own = _share(table)
        describe(
            figure,
            "Three panels over the target length, modelled: FLOPs of a sample and hours of stage 1, on logarithmic "
            "axes, for FLT and for short samples; and FLOPs of short samples in percent of FLT's by model.",
            f"To {target_length:,} tokens, samples of {own.name} cost {own[target_length]:.0%} of FLT's FLOPs; "
            "the longer the target, the larger the saving",
        )
        for axis, end in zip(axes, ends, strict=True):
            label_ends(axis, end)
    return figure


def _share(table: pd.DataFrame) -> pd.Series:
    """FLOPs of a short sample as a share of FLT's by target; its name is that of the short samples."""
    by = table.pivot(index="target", columns="sample", values="PFLOP")
    short = next(sample for sample in by if sample != "FLT")
    return (by[short] / by["FLT"]).rename(short)


def _line(axis: Axes, level: float, text: str, up: float) -> None:
    """Draw a dashed horizontal line with a label on the left, moved up by points."""
    axis.axhline(level, color="black", lw=0.9, ls="--")
    axis.annotate(text, (0, level), (2, up), ("axes fraction", "data"), "offset points", fontsize=8)


def length_ticks(axis: Axes, lengths: pd.Series, every: int = 1) -> None:
    """Set a logarithmic axis with ticks at every n-th length (n = every) that is a power of two times the shortest."""
    axis.set_xscale("log")
    doubled = [x for x in sorted(set(lengths)) if (x // min(lengths)).bit_count() == 1 and x % min(lengths) == 0]
    doubled = doubled if len(doubled) > 1 else sorted(set(lengths))
    axis.set_xticks(doubled[::every], [_short(x) for x in doubled[::every]], minor=False)
    axis.minorticks_off()


def _short(tokens: float) -> str:
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.3g}{name}"
    return f"{tokens:g}"


def flop_parts(table: pd.DataFrame) -> Figure:
    """FLOPs of a sample by purpose, in percent of FLT's at the same target. Left bars: FLT, right bars: short samples.

    Args:
        table: of `experiments.table4.by_length`.
    """
    targets, share = sorted(set(table["target"])), _share(table)
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.4))
        whole = table[table["sample"] == "FLT"].set_index("target")["PFLOP"]
        for _, row in table.iterrows():
            short = row["sample"] != "FLT"
            x, bottom = targets.index(row["target"]) + (0.2 if short else -0.2), 0.0
            for part, shade in _FLOP_COLOURS.items():
                percent = 100 * row[part] / whole[row["target"]]
                axis.bar(x, percent, 0.36, bottom, color=PALETTE[shade], alpha=1.0 if short else 0.45)
                bottom += percent
            if short:
                at = (x, bottom), (0, 2)
                axis.annotate(f"{bottom:.0f}%", *at, textcoords="offset points", ha="center", fontsize=8)
        axis.set_xticks(range(len(targets)), [_short(target) for target in targets])
        axis.set(xlabel=f"target, tokens (pale: FLT; dark: {share.name} of its tokens)", ylim=(0, 108))
        axis.set_ylabel("percent of FLT's FLOPs, modelled")
        axis.grid(axis="x", visible=False)
        _legend(axis, _FLOP_COLOURS, _FLOP_NAMES)
        part = table[table["sample"] == "FLT"].set_index("target")["attention"] / whole
        ends = [f"{100 * part[x]:.0f}% of FLT's FLOPs at {_short(x)}" for x in (targets[0], targets[-1])]
        describe(
            figure,
            "Pairs of stacked bars by target length, FLT and short samples, split into linear layers, attention and "
            "the LM head.",
            f"Attention grows from {ends[0]} to {ends[1]}, and short samples save most of it",
        )
    return figure


def longest_samples(table: pd.DataFrame, target_length: int, short: int) -> Figure:
    """The longest sample that fits a card, by model: as set up (dark) and with all savings (pale).

    Args:
        table: of `experiments.table4.longest`, of one card.
        target_length: tokens of a whole sample, drawn as a line.
        short: tokens of a short sample, drawn as a line.
    """
    usual, most = "sample, as set up", "sample, all savings"
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.36 * len(table) + 1.6))
        for y, ((model, _), row) in enumerate(table.iterrows()):
            for key, alpha in ((most, 0.35), (usual, 1.0)):
                axis.barh(y, np.nan_to_num(row[key]), color=colour(model), alpha=alpha, height=0.7)
            more = " or more" if row[most] == LONGEST else ""
            text = "does not fit" if np.isnan(row[most]) else rounded(row[most]) + more
            at = (np.nan_to_num(row[most]), y), (4, 0)
            axis.annotate(text, *at, textcoords="offset points", va="center", fontsize=8, bbox=_BOX)
        for length, name, y in ((short, "LongRecipe", -1.15), (target_length, "FLT", -0.6)):
            axis.axvline(length, color="black", lw=0.9, ls="--")
            axis.annotate(f"{name}: {length:,}", (length, y), (3, 2), textcoords="offset points", fontsize=8)
        axis.set_yticks(range(len(table)), table.index.get_level_values("model"))
        axis.set(
            ylim=(len(table) - 0.4, -1.6), xlabel="longest sample, tokens, modelled; dark: as set up, pale: all savings"
        )
        axis.set_xlim(0, 1.2 * max(target_length, np.nan_to_num(table[most]).max()))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.grid(axis="y", visible=False)
        fits = [how for key, how in ((usual, "as set up"), (most, "with all savings")) if (table[key] >= short).all()]
        names, card = ", ".join(table.index.get_level_values("model")), table.index[0][1]
        describe(
            figure,
            f"Bars of the longest sample on a GPU of {card} by model, with lines at the tokens of LongRecipe and FLT.",
            f"{names}: a GPU of {card} "
            + (
                f"trains on samples of {short:,} tokens {fits[0]}"
                if fits
                else f"does not hold {short:,} tokens for all"
            ),
        )
    return figure


def price(table: pd.DataFrame, usd: float) -> Figure:
    """USD of stage 1 by method at a price per GPU-hour.

    Args:
        table: of `experiments.table4.prices`; only its GPU-hours count.
        usd: for an hour of one GPU.
    """
    spent = usd * table["GPU-hours"]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 0.36 * len(table) + 1.2))
        for y, (name, total) in enumerate(spent.items()):
            axis.barh(y, total, color=colour(name), height=0.66)
            text = f"{rounded(total)} USD"
            axis.annotate(text, (total, y), (4, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_yticks(range(len(table)), table.index)
        axis.invert_yaxis()
        axis.set(xlim=(0, 1.35 * max(spent.max(), 1)), xlabel=f"USD of stage 1 at {usd:.2f} USD per GPU-hour, modelled")
        axis.grid(axis="y", visible=False)
        short, whole = (f"{rounded(usd)} USD" for usd in (spent.drop("FLT").min(), spent["FLT"]))
        title = f"At {usd:.2f} USD per GPU-hour, stage 1 costs {short} on short samples and {whole} on whole ones"
        describe(figure, "Bars of the price of stage 1 by method.", title)
    return figure
