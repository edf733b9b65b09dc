"""Table 1: long-context skill, general skill and training cost of every method (paper, section 4.2)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claim, Claims, at_most
from longrecipe.experiments import judging, quoted
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import FULL
from longrecipe.experiments.scores import GENERAL, NAMES, TRAINING, default_ratio, final, over_seeds
from longrecipe.families import FAMILIES, OF_THE_PAPER
from longrecipe.results.rows import NIAH_M
from longrecipe.stats import seed_interval

# A recall of the base at the target that counts as none, percent; the most of FLT's seconds, percent.
MOST_OF_BASE, MOST_SECONDS = 5.0, 17.0
# What LongRecipe's scores are compared with: (one, other, points), as in `judging.compared`.
AGAINST = (("LongRecipe", "FLT", -judging.WITHIN), ("LongRecipe", "RPES", 0.0), ("LongRecipe", "PoSE", 0.0))
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
    found, share = [], f"at most {MOST_SECONDS:g} % of FLT's seconds"
    for target, frame in rows.groupby("target", sort=False):
        where, longest = f" at T = {target}", target == rows["target"].max()
        base = seed_interval(frame.loc[frame["name"] == "base", "recall"].tolist())
        for column in ("NIAH(M)", "RULER-like"):
            main = longest and column == "NIAH(M)"
            found += judging.compared(frame, AGAINST, column, main=main, where=where)
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
    """A score of every method: ours with intervals over seeds (filled) above the paper's (hollow, quoted). The best of
    the last panel comes first.

    Args:
        ours: tables of `scores.over_seeds` by name; a panel each, under its title.
        paper: the paper's score by the same names, for each panel.
    """
    title, last = list(ours.items())[-1]
    names = list(last[column, "mean"].sort_values(ascending=False).index)
    theirs = "hollow: quoted from the paper, 8B model" + ("" if column == NIAH_M else f", {NIAH_M}")
    with plt.rc_context(plots.STYLE):
        size = {"figsize": (min(plots.WIDTH_INCHES, 2.6 + 2.6 * len(ours)), 1.4 + 0.42 * len(names))}
        figure, axes = plt.subplots(1, len(ours), sharey=True, sharex=True, squeeze=False, **size)
        for axis, (panel, table) in zip(axes[0], ours.items(), strict=True):
            for y, name in enumerate(names):
                style = {"color": plots.colour(name), "marker": plots.marker(name), "ms": 6, "ls": ""}
                mean, low, high = (table.loc[name, (column, kind)] for kind in ("mean", "low", "high"))
                axis.plot([low, high], [y - 0.18] * 2, color=style["color"], lw=1.2)
                quoted = paper[panel].get(name, float("nan"))
                axis.plot(mean, y - 0.18, **style)
                axis.plot(quoted, y + 0.2, **style | {"mfc": "white"})
                for value, end, at in ((mean, high, y - 0.18), (quoted, quoted, y + 0.2)):
                    if not pd.isna(value):
                        place = (max(value, 0 if pd.isna(end) else end), at)
                        axis.annotate(f"{value:.1f}", place, (6, 0), textcoords="offset points", va="center", size=8)
            axis.set(title=panel if len(ours) > 1 else "", xlim=(-3, 103), xlabel=f"{column}, percent")
            axis.grid(axis="y", visible=False)
        axes[0, 0].set(ylim=(len(names) - 0.4, -0.6))
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 0].plot([], [], "o", color="grey", label="filled: measured here, with 95 % interval over seeds")
        axes[0, 0].plot([], [], "o", color="grey", mfc="white", label=theirs)
        figure.legend(loc="outside lower left", ncols=len(ours))
        drawn = f"{column} of every method, measured here and quoted from the paper, in panels {', '.join(ours)}."
        found = _finding(last[column, "mean"])
        plots.describe(figure, drawn, f"{title}: {found}" if found and len(ours) > 1 else found)
    return figure


def _finding(means: pd.Series) -> str:
    """How LongRecipe's score compares with FLT's and with that of the next method; empty without LongRecipe."""
    if "LongRecipe" not in means:
        return ""
    others = means.drop(["LongRecipe", "FLT"], errors="ignore")
    against = {"FLT": means["FLT"]} if "FLT" in means else {}
    against |= {f"the next best, {others.idxmax()}": others.max()} if others.notna().any() else {}
    found = [f"{_points(means['LongRecipe'] - value)} {name}" for name, value in against.items()]
    return f"LongRecipe scores {' and '.join(found)}" if found else ""


def _points(difference: float) -> str:
    return f"{abs(difference):.1f} points {'below' if difference < 0 else 'above'}"


def depth_figure(depths: pd.DataFrame) -> Figure:
    """Recall by text length and depth of the fact, a heatmap for each method; depths as `scores.depths` gives them."""
    labels = plots.depth_labels()
    tables = {
        name: rows.pivot(index="depth", columns="length", values="score").reindex(range(5)).set_axis(labels)
        for name, rows in depths.groupby("name", sort=False)
    }
    figure = plots.depth_heatmaps(tables, "recall of one of several facts")
    title, longest = "", max(depths["length"])
    if "LongRecipe" in tables:
        low, high = (100 * getattr(tables["LongRecipe"][longest], end)() for end in ("min", "max"))
        title = f"LongRecipe recalls {low:.0f} to {high:.0f} % of the facts at every depth of {longest:,} tokens"
    drawn = f"Heatmaps of recall by text length and depth of the fact, for {', '.join(tables)}."
    plots.describe(figure, drawn, title)
    return figure


EXPERIMENT = Experiment(
    name="table1",
    title="Table 1: methods",
    variants=tuple({"method": method} for method in METHODS),
    protocol=FULL,
    models=OF_THE_PAPER,
    targets=(2560, 4096),
    # Other sentences would be another method under LongRecipe's name.
    fixed=frozenset({"selection"}),
    section=section,
)
