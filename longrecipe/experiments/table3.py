"""Table 3: what extension, replay and merging keep of the base's general skill (paper, section 4.3)."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claims, at_least, at_most
from longrecipe.experiments import judging, quoted, table1
from longrecipe.experiments.scores import GENERAL, NAMES, default_ratio, in_order, over_seeds
from longrecipe.stats import seed_interval

# The models of the three stages, and what was done to them.
AFTER = {"extended": "extension", "replayed": "replay", "merged": "merging"}
STAGES, COLUMNS = tuple(AFTER), ["NIAH(M)", *GENERAL]
# The least of a general score of the base that counts as kept, percent.
LEAST_KEPT = 97.0


def trained(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the three stages, in the order of the paper's methods."""
    return in_order(scores[scores["stage"].isin(STAGES)])


def section(scores: pd.DataFrame) -> pd.DataFrame:
    """Every model, target and stage, for results/README.md."""
    rows = default_ratio(scores)
    rows = rows[rows["stage"].isin(STAGES) & rows["name"].isin(table1.NAMED)]
    return over_seeds(rows, ["model", "target", "name", "stage"], COLUMNS)


def paper() -> pd.DataFrame:
    """The paper's Table 3 (quoted): Llama-3 to 80k, by method and stage, in percent of the base's."""
    base = quoted.read("table1_methods").set_index(["family", "method"]).loc[("llama3-8b-instruct", "base")]
    rows = quoted.read("table3_retention").replace({"method": NAMES}).set_index(["method", "stage"])
    return pd.DataFrame({f"{name} kept": 100 * rows[name] / base[name] for name in quoted.GENERAL})


def claims(scores: pd.DataFrame) -> Claims:
    """Table 3's claims: LongRecipe's extension costs general skill, replay brings some of it back; and, as this kit
    puts it, merged models keep 97 % of every general score of the base. `fronts` judges what merging adds.

    Main claims are those about perplexity.
    """
    found, stages = [], scores[scores["name"] == "LongRecipe"]
    stages = stages.assign(name="LongRecipe after " + stages["stage"].map(AFTER))
    for column in GENERAL:
        main = column == GENERAL[0]
        extended = seed_interval(stages.loc[stages["stage"] == "extended", column].tolist())
        text = f"{column}: LongRecipe after extension has less than 100 %"
        found.append(judging.level(text, extended, at_most(extended, 100), main=main))
        found += judging.compared(
            stages, [("LongRecipe after replay", "LongRecipe after extension", 0.0)], column, main=main
        )
    for name, frame in scores[scores["stage"] == "merged"].groupby("name", sort=False):
        for column in GENERAL:
            triple = seed_interval(frame[column].tolist())
            text = f"{column}: {name} after merging has at least {LEAST_KEPT:g} %"
            found.append(judging.level(text, triple, at_least(triple, LEAST_KEPT), main=column == GENERAL[0]))
    return Claims(found)


def gaps(rows: pd.DataFrame, column: str = "NIAH(M)") -> pd.DataFrame:
    """How far LongRecipe is from FLT after each stage, by model and stage: the mean of both, and their difference over
    seeds with its 95 % interval.

    Args:
        rows: `trained`, of one target.
    """
    found = {}
    for key, some in rows.groupby(["model", "stage"], sort=False):
        if {"FLT", "LongRecipe"} <= set(some["name"]):
            means = [some.loc[some["name"] == name, column].mean() for name in ("FLT", "LongRecipe")]
            found[key] = [*means, *judging.difference(some, "LongRecipe", "FLT", column=column)]
    table = pd.DataFrame.from_dict(found, orient="index", columns=["FLT", "LongRecipe", "difference", "low", "high"])
    return table.set_index(pd.MultiIndex.from_tuples(found, names=["model", "stage"]))


def figure(table: pd.DataFrame) -> Figure:
    """What each stage keeps of the base, in percent: a panel for each score, a group for each method.

    Args:
        table: `scores.over_seeds` of four scores by name and stage, see COLUMNS.
    """
    names, stages = (list(dict.fromkeys(table.index.get_level_values(i))) for i in range(2))
    columns = [column for column, kind in table.columns if kind == "mean"]
    text = {"va": "center", "size": 8, "bbox": {"fc": "white", "ec": "none", "pad": 0.4}}
    with plt.rc_context(plots.STYLE):
        height = 1.2 + 0.45 * len(names)
        figure, axes = plt.subplots(2, 2, figsize=(plots.WIDTH_INCHES, max(4.2, 2 * height)), sharey=True)
        for axis, column in zip(axes.flat, columns, strict=True):
            for i, stage in enumerate(stages):
                rows = table.xs(stage, level=1)
                for name, row in rows.iterrows():
                    y, style = names.index(name) + 0.24 * (i - 1), {"color": plots.colour(stage)}
                    mean, low, high = (row[column, kind] for kind in ("mean", "low", "high"))
                    axis.plot([low, high], [y, y], lw=1.2, **style)
                    label = stage if name == rows.index[0] else None
                    axis.plot(mean, y, plots.marker(stage), ms=5, label=label, **style)
                    end = mean if pd.isna(high) else high
                    axis.annotate(f"{mean:.1f}", (end, y), (4, 0), textcoords="offset points", **text)
            if column in GENERAL:
                axis.axvline(LEAST_KEPT, color="black", lw=0.8, ls="--")
            axis.set_title(f"{column}, percent of the base's" if column in GENERAL else f"{column} at T, percent")
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.14)
        axes[0, 0].set(ylim=(len(names) - 0.5, -0.5))
        axes[0, 0].set_yticks(range(len(names)), names)
        axes[0, 1].plot([], [], "--", color="black", lw=0.8, label=f"{LEAST_KEPT:g} %")
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
        drawn = f"Four panels of {', '.join(columns)} by method after the stages {', '.join(stages)}."
        plots.describe(figure, drawn, _finding(table.xs(stages[-1], level=1), stages[-1]))
    return figure


def _finding(table: pd.DataFrame, stage: str) -> str:
    """Which methods keep enough of every general score after a stage, with the whole interval."""
    least = table[[(column, "low") for column in GENERAL]].min(axis="columns")
    keep, lose = list(least.index[least >= LEAST_KEPT]), list(least.index[~(least >= LEAST_KEPT)])
    after = AFTER.get(stage, stage)
    if not keep:
        return f"After {after}, no method keeps {LEAST_KEPT:g} % of every general score"
    found = f"{_listed(keep)} {'keeps' if len(keep) == 1 else 'keep'} {LEAST_KEPT:g} % of every general score"
    rest = f", {_listed(lose)} {'does' if len(lose) == 1 else 'do'} not" if lose else ""
    return f"After {after}, {found}{rest}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


# The runs are Table 1's.
EXPERIMENT = replace(table1.EXPERIMENT, name="table3", title="Table 3: stages", section=section)
