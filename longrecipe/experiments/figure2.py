"""Figure 2: long-context skill by the token ratio, the share of the target's tokens that a sample holds."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import HOLDS, Claims, at_least
from longrecipe.experiments import judging, quoted
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import LEAN
from longrecipe.experiments.scores import CONTIGUOUS, final, over_seeds

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
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.0))
        for name, rows in lines.items():
            x = 100 * rows.index.to_numpy()
            plots.points(left, x, rows[column], color=plots.colour(name), label=name, **_line_style(name))
        left.set(title="measured here, mini model", ylabel=f"{column}, percent", ylim=(-4, 104))
        left.legend(fontsize=7, loc="lower right")
        for key, name in (("niah_m", "NIAH(M)"), ("ruler", "RULER"), ("longbench", "LongBench")):
            right.plot(paper["ratio_percent"], paper[key], "o-", ms=4, mfc="white", label=name)
        right.set(title="quoted from the paper, Llama-3-8B to 80k", ylabel="score, percent")
        right.legend(fontsize=7)
        for axis in (left, right):
            axis.set(xscale="log", xlabel="tokens of a sample, percent of the target")
            axis.set_xticks([5, 10, 20, 30, 40, 100], ["5", "10", "20", "30", "40", "100"], minor=False)
            axis.minorticks_off()
    return figure


def cost_figure(points: pd.DataFrame, lines: Mapping[str, pd.DataFrame], x: str, *, column: str = "NIAH(M)") -> Figure:
    """Long-context score against what a run took: a point for each method, a line over token ratios for each variant.

    Args:
        points: `scores.over_seeds` by name, of both columns. The RoPE rule alone, which takes nothing, is a level line.
        lines: tables of `lines`; 1.0 stands for FLT.
        x: the column of what a run took; the axis is logarithmic.
    """
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 3.7))
        for name, rows in lines.items():
            took = rows[x, "mean"].to_numpy()
            plots.points(axis, took, rows[column], color=plots.colour(name), label=name, **_line_style(name))
            for ratio, at, y in zip(rows.index, took, rows[column, "mean"], strict=True):
                if name == "LongRecipe":
                    label = "FLT" if ratio == 1 else f"{ratio:.0%}"
                    axis.annotate(label, (at, y), (-4, 4), textcoords="offset points", fontsize=7, ha="right")
        for name in points.index.difference(list(lines), sort=False):
            rows = points.loc[[name]]
            if name == "RoPE rule alone":
                axis.axhline(rows[column, "mean"].item(), color=plots.colour(name), lw=1.0, ls=":", label=name)
            else:
                took = rows[x, "mean"].to_numpy()
                plots.points(axis, took, rows[column], color=plots.colour(name), ms=7, label=name)
        axis.set(xscale="log", xlabel=x, ylabel=f"{column} at the target, percent")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xticks([2, 5, 10, 20, 50, 100])
        axis.minorticks_off()
        axis.legend(fontsize=7, loc="lower right")
    return figure


def _line_style(name: str) -> dict:
    return {"fmt": "o-" if name == "LongRecipe" else "s--", "ms": 4, "lw": 1.3}


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
