"""Table 1: long-context skill, general skill and training cost of every method (paper, section 4.2)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claim, Claims, at_most
from longrecipe.experiments import judging, quoted
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import FULL
from longrecipe.experiments.scores import GENERAL, NAMES, TRAINING, default_ratio, final, over_seeds
from longrecipe.families import FAMILIES
from longrecipe.stats import seed_interval

# A recall of the base at the target that counts as none, percent; the most of FLT's seconds, percent.
MOST_OF_BASE, MOST_SECONDS = 5.0, 17.0
METHODS = ("none", "flt", "rpes", "pose", "longrecipe")
NAMED = tuple(NAMES[method] for method in METHODS)


def section(scores: pd.DataFrame) -> pd.DataFrame:
    """Every model and target, for results/README.md."""
    rows = default_ratio(scores)
    rows = final(rows[rows["name"].isin(NAMED)]).sort_values("model", kind="stable")
    return over_seeds(rows, ["model", "target", "name"], ["NIAH(M)", "RULER-like", *GENERAL, *TRAINING])


def paper(model: str, windows: float) -> pd.DataFrame:
    """The paper's Table 1 (quoted) for a family, by method.

    General scores are also in percent of the base's, as `<name> kept`. Qwen2's flt is the paper's FLT*: the base with
    YaRN and DCA, untrained.

    Args:
        model: a family, such as `llama3`; others have no rows.
        windows: the target in windows of Llama-3: 10 (80k) or 16 (128k).
    """
    rows = quoted.read("table1_methods")
    rows = rows[rows["family"] == (FAMILIES[model].table1 if model in FAMILIES else None)]
    base = rows[rows["method"] == "base"].squeeze("index")
    found = rows[rows["target_k"] == 8 * windows].set_index("method").rename({"flt_star": "flt"})
    for name in quoted.GENERAL:
        found[f"{name} kept"] = 100 * found[name] / base[name]
    return found.drop(columns=["family", "target_k"]).rename(index=NAMES)


def claims(rows: pd.DataFrame, steps: Mapping[int, float]) -> Claims:
    """Table 1's claims at every target: LongRecipe against FLT (2 points below are allowed), RPES and PoSE, and its
    share of FLT's seconds; and this kit's own claim that the base cannot read the target.

    Main claims are those about NIAH(M) and training cost at the longest target.

    Args:
        rows: `scores.final`.
        steps: by target, the seconds of one LongRecipe step in percent of FLT's, from one benchmark; no interval.
    """
    against = [("LongRecipe", "FLT", -judging.WITHIN), ("LongRecipe", "RPES", 0.0), ("LongRecipe", "PoSE", 0.0)]
    found, share = [], f"at most {MOST_SECONDS:g} % of FLT's seconds"
    for target, frame in rows.groupby("target", sort=False):
        where, longest = f" at T = {target}", target == rows["target"].max()
        base = seed_interval(frame.loc[frame["name"] == "base", "recall"].tolist())
        for column in ("NIAH(M)", "RULER-like"):
            main = longest and column == "NIAH(M)"
            found += judging.compared(frame, against, column, main=main, where=where)
        if target in steps:
            text, known = f"training step{where}: LongRecipe takes {share}", (steps[target],) * 3
            step = Claim(text, at_most(known, MOST_SECONDS), f"{steps[target]:.1f} %, one benchmark", main=longest)
            found.append(step)
        took = judging.share(frame, "LongRecipe", "FLT", column="analysis and stage 1 seconds")
        text = f"token analysis and stage 1{where}: LongRecipe takes {share}"
        found.append(judging.level(text, took, at_most(took, MOST_SECONDS), main=longest))
        text = f"recall{where}: the base, untrained, has at most {MOST_OF_BASE:g} %"
        found.append(judging.level(text, base, at_most(base, MOST_OF_BASE), main=False))
    return Claims(found)


def figure(ours: Mapping[str, pd.DataFrame], paper: Mapping[str, pd.Series], column: str = "NIAH(M)") -> Figure:
    """A score of every method: ours with intervals over seeds (filled) next to the paper's (hollow, quoted).

    Args:
        ours: tables of `scores.over_seeds` by name; a panel each, under its title.
        paper: the paper's score by the same names, for each panel.
    """
    with plt.rc_context(plots.STYLE):
        widths = [0.9 + 0.55 * len(table) for table in ours.values()]
        size = {"figsize": (sum(widths), 3.3), "width_ratios": widths}
        figure, axes = plt.subplots(1, len(ours), sharey=True, squeeze=False, **size)
        for axis, (title, table) in zip(axes[0], ours.items(), strict=True):
            for i, name in enumerate(table.index):
                colour = plots.colour(name)
                plots.points(axis, np.array([i - 0.1]), table.loc[[name], column], color=colour, ms=7)
                value = paper[title].get(name, float("nan"))
                axis.plot(i + 0.15, value, "o", ms=7, mfc="white", mec=colour, mew=1.5)
            axis.set_xticks(range(len(table)), table.index, rotation=30, ha="right")
            axis.set(title=title, ylim=(-4, 104))
        axes[0, 0].set_ylabel(f"{column}, percent")
        axes[0, -1].plot([], [], "o", color="grey", ms=7, label="measured here, 95 % over seeds")
        axes[0, -1].plot([], [], "o", mfc="white", mec="grey", mew=1.5, ms=7, label="quoted from the paper")
        figure.legend(fontsize=7, loc="outside upper center", ncols=2)
    return figure


def depth_figure(depths: pd.DataFrame) -> Figure:
    """Recall by text length and depth of the fact, a heatmap for each method; depths as `scores.depths` gives them."""
    names = list(dict.fromkeys(depths["name"]))
    labels = [f"{20 * i} to {20 * i + 20} %" for i in range(5)]
    with plt.rc_context({**plots.STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(1, len(names), figsize=(1.2 + 2.1 * len(names), 2.6), sharey=True, squeeze=False)
        for axis, name in zip(axes[0], names, strict=True):
            table = depths[depths["name"] == name].pivot(index="depth", columns="length", values="score")
            plots.depth_heatmap(axis, table.reindex(range(5)).set_axis(labels), name)
        axes[0, 0].set_ylabel("depth of the fact")
    return figure


EXPERIMENT = Experiment(
    name="table1",
    title="Table 1: methods",
    variants=tuple({"method": method} for method in METHODS),
    protocol=FULL,
    models=tuple(FAMILIES),
    targets=(2560, 4096),
    # Other sentences would be another method under LongRecipe's name.
    fixed=frozenset({"selection"}),
    section=section,
)
