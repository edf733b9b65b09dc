"""Figure 2: long-context skill by the token ratio, the share of the target's tokens that a sample holds."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import HOLDS, Claims, at_least
from longrecipe.experiments import judging, quoted
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import LEAN
from longrecipe.experiments.scores import CONTIGUOUS, final, over_seeds
from longrecipe.results.rows import NIAH_M

RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4)
LINES = ("LongRecipe", "contiguous")


def section(scores: pd.DataFrame) -> pd.DataFrame:
    """Every model and target, for results/README.md."""
    rows = final(scores[scores["name"].isin([*LINES, "FLT"])]).sort_values(["model", "name", "ratio"])
    return over_seeds(rows, ["model", "target", "name", "ratio"], ["NIAH(M)"])


def paper() -> pd.DataFrame:
    """The paper's Figure 2 (quoted): Llama-3-8B to 80k, by ratio."""
    return quoted.read("fig2_token_ratio")


def lines(rows: pd.DataFrame, columns: list[str]) -> dict[str, pd.DataFrame]:
    """Columns over seeds by ratio, for LongRecipe and for the same tokens at contiguous positions; 1.0 is FLT.

    Args:
        rows: `scores.final`.
    """
    each = {name: rows[rows["name"].isin([name, "FLT"])].sort_values("ratio") for name in LINES}
    return {name: over_seeds(some, ["ratio"], columns) for name, some in each.items()}


def claims(rows: pd.DataFrame) -> Claims:
    """Figure 2's claims: LongRecipe at every ratio against FLT (2 points below are allowed) and against the same tokens
    at contiguous positions, and 30 % against 40 %. Main claims are those of 30 % against FLT and 40 %.

    Args:
        rows: `scores.final`.
    """
    named = rows.assign(name=_with_ratio(rows))
    ratios = sorted(rows.loc[rows["name"] == "LongRecipe", "ratio"].unique())
    near = {ratio: (_at("LongRecipe", ratio), "FLT", -judging.WITHIN) for ratio in ratios}
    beyond = [(_at("LongRecipe", ratio), _at("contiguous", ratio), 0.0) for ratio in ratios]
    order = [(_at("LongRecipe", 0.3), _at("LongRecipe", 0.4), 0.0)] if {0.3, 0.4} <= set(ratios) else []
    main = [near.pop(0.3)] if 0.3 in near else []
    others = judging.compared(named, [*near.values(), *beyond], main=False)
    return Claims([*judging.compared(named, [*main, *order]), *others])


def smallest_ratio(rows: pd.DataFrame) -> float | None:
    """The smallest ratio at which LongRecipe's NIAH(M) is at most 2 points below FLT's; None if there is none."""
    named = rows.assign(name=_with_ratio(rows))
    for ratio in sorted(rows.loc[rows["name"] == "LongRecipe", "ratio"].unique()):
        triple = judging.difference(named, _at("LongRecipe", ratio), "FLT", column="NIAH(M)")
        if at_least(triple, -judging.WITHIN) == HOLDS:
            return ratio
    return None


def _with_ratio(rows: pd.DataFrame) -> list[str]:
    alone = ("FLT", "base", "RoPE rule alone")
    pairs = zip(rows["name"], rows["ratio"], strict=True)
    return [name if name in alone else _at(name, ratio) for name, ratio in pairs]


def _at(name: str, ratio: float) -> str:
    return f"{name} at {100 * ratio:g} %"


def figure(lines: Mapping[str, pd.DataFrame], paper: pd.DataFrame, column: str = "NIAH(M)") -> Figure:
    """A score by token ratio: ours on the left, the paper's on the right.

    Args:
        lines: tables of `lines`.
        paper: the paper's Figure 2, from `paper`.
    """
    with plt.rc_context(plots.STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(plots.WIDTH_INCHES, 3.3), sharey=True)
        for i, (name, rows) in enumerate(lines.items()):
            _line(left, 100 * rows.index.to_numpy(), rows[column], name)
            # Above the first line and below the others.
            _label(left, (100 * rows.index[-2], rows[column, "mean"].iloc[-2]), name, above=i == 0)
        model = ", mini model" if column == NIAH_M else ""
        left.set(title=f"measured here{model}", ylabel="score, percent", ylim=(-4, 104))
        ends = []
        for key, name, shade, marker in (
            ("niah_m", "NIAH(M)", "blue", "o"),
            ("ruler", "RULER", "vermillion", "s"),
            ("longbench", "LongBench", "green", "^"),
        ):
            right.plot(paper["ratio_percent"], paper[key], f"{marker}-", ms=5, mfc="white", color=plots.PALETTE[shade])
            ends.append((paper["ratio_percent"].iloc[-1], paper[key].iloc[-1], name, plots.PALETTE[shade]))
        right.set_title("quoted from the paper, Llama-3-8B to 80k")
        for axis in (left, right):
            axis.set(xscale="log", xlabel="tokens of a sample, percent of the target")
            axis.set_xticks([5, 10, 20, 40, 100], ["5", "10", "20", "40", "100"], minor=False)
            axis.minorticks_off()
        plots.label_ends(right, ends)
        near = {name: _near_flt(rows, column) for name, rows in lines.items() if 1.0 in rows.index}
        found = [f"{name} {'from' if ratio < 1 else 'only at'} {100 * ratio:g} %" for name, ratio in near.items()]
        title = f"Within {judging.WITHIN:g} points of FLT: {', '.join(found)} of the tokens" if found else ""
        drawn = f"Left: {column} by token ratio, measured. Right: the paper's scores by token ratio, quoted."
        plots.describe(figure, drawn, title)
    return figure


def cost_figure(points: pd.DataFrame, lines: Mapping[str, pd.DataFrame], x: str, *, column: str = "NIAH(M)") -> Figure:
    """Long-context score against what a run took: a point for each method, a line over token ratios for each variant.

    Args:
        points: `scores.over_seeds` by name, of both columns. The RoPE rule alone, which takes nothing, is a level line.
        lines: tables of `lines`; 1.0 stands for FLT.
        x: the column of what a run took; the axis is logarithmic.
    """
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDTH_INCHES, 4.2))
        axis.set(xscale="log", xlabel=x, ylabel=f"{column} at the target, percent", ylim=(-4, 104))
        for i, (name, rows) in enumerate(lines.items()):
            took = rows[x, "mean"].to_numpy()
            _line(axis, took, rows[column], name)
            for ratio, at, y in zip(rows.index, took, rows[column, "mean"], strict=True):
                label = "FLT, 100 %" if ratio == 1 else f"{100 * ratio:g} %"
                if i == 0 or ratio < 1:
                    _label(axis, (at, y), label, above=i == 0, shade=plots.colour("FLT" if ratio == 1 else name))
            _label(axis, (took[1], rows[column, "mean"].iloc[1]), name, above=i > 0)
        for name in points.index.difference(list(lines), sort=False):
            shade, rows = plots.colour(name), points.loc[[name]]
            took, y = rows[x, "mean"].item(), rows[column, "mean"].item()
            if name == "RoPE rule alone":
                axis.axhline(y, color=shade, lw=1.2, ls=":")
                at = {"xy": (1, y), "xycoords": ("axes fraction", "data"), "xytext": (0, 4)}
                axis.annotate(
                    "RoPE rule alone, no training", **at, textcoords="offset points", ha="right", color=shade, size=8
                )
            else:
                plots.points(axis, [took], rows[column], color=shade, ms=7, fmt=plots.marker(name))
                axis.annotate(name, (took, y), (8, 0), textcoords="offset points", va="center", color=shade, size=8)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xticks([2, 5, 10, 20, 50, 100])
        axis.minorticks_off()
        drawn = f"{column} over {x}: {', '.join(lines)} by token ratio; and {', '.join(points.index)}."
        plots.describe(figure, drawn, _finding(lines, x, column))
    return figure


def _line(axis: Axes, x: np.ndarray, rows: pd.DataFrame, name: str) -> None:
    style = "-" if name == LINES[0] else "--"
    plots.points(axis, x, rows, color=plots.colour(name), fmt=f"{plots.marker(name)}{style}", ms=5, lw=1.4)


def _label(axis: Axes, at: tuple[float, float], text: str, *, above: bool, shade: str | None = None) -> None:
    """Write a label above a point to its left, or below it to its right."""
    sign = 1 if above else -1
    style = {"ha": "right" if above else "left", "va": "bottom" if above else "top", "size": 8}
    place = {"xytext": (-4 * sign, 4 * sign), "textcoords": "offset points"}
    axis.annotate(text, at, **place, **style, color=shade or plots.colour(text))


def _near_flt(rows: pd.DataFrame, column: str) -> float:
    """The smallest ratio from which on the mean is at most 2 points below FLT's, which is at ratio 1."""
    far = rows.index[rows[column, "mean"] < rows.loc[1.0, (column, "mean")] - judging.WITHIN]
    return rows.index[rows.index > max(far, default=0.0)].min()


def _finding(lines: Mapping[str, pd.DataFrame], x: str, column: str) -> str:
    """What LongRecipe's smallest ratio near FLT's score takes of FLT's; empty if there is none or it is not known."""
    rows = lines.get(LINES[0], pd.DataFrame(index=[]))
    if 1.0 not in rows.index or (ratio := _near_flt(rows, column)) == 1 or rows[x, "mean"].isna().any():
        return ""
    (ours, flt), (took, whole) = (rows.loc[[ratio, 1.0], (of, "mean")] for of in (column, x))
    return (
        f"LongRecipe with {100 * ratio:g} % of the tokens scores {ours:.1f}, FLT {flt:.1f}, "
        f"at {100 * took / whole:.1f} % of FLT's time per step"
    )


EXPERIMENT = Experiment(
    name="figure2",
    title="Figure 2: token ratio",
    # 100 % is FLT; the control is the same tokens at contiguous positions.
    variants=(
        {"method": "flt"},
        *({"method": method, "ratio": ratio} for ratio in RATIOS for method in ("longrecipe", CONTIGUOUS)),
    ),
    protocol=LEAN,
    section=section,
)
