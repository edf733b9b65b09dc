"""Table 3: what extension, replay and merging keep of the base's general skill (paper, section 4.3)."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claims, at_least, at_most
from longrecipe.experiments import judging, quoted, table1
from longrecipe.experiments.scores import GENERAL, NAMES, default_ratio, in_order, over_seeds
from longrecipe.stats import seed_interval

STAGES, COLUMNS = ("extended", "replayed", "merged"), ["NIAH(M)", *GENERAL]
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

    Main claims are those about perplexity, and LongRecipe's about the merged model.
    """
    found, stages = [], scores[scores["name"] == "LongRecipe"]
    stages = stages.assign(name="LongRecipe, " + stages["stage"])
    for column in GENERAL:
        main = column == GENERAL[0]
        extended = seed_interval(stages.loc[stages["stage"] == "extended", column].tolist())
        text = f"{column}: LongRecipe, extended, has less than 100 %"
        found.append(judging.level(text, extended, at_most(extended, 100), main=main))
        found += judging.compared(stages, [("LongRecipe, replayed", "LongRecipe, extended", 0.0)], column, main=main)
    for name, frame in scores[scores["stage"] == "merged"].groupby("name", sort=False):
        for column in GENERAL:
            triple = seed_interval(frame[column].tolist())
            text = f"{column}: {name}, merged, has at least {LEAST_KEPT:g} %"
            main = name == "LongRecipe" or column == GENERAL[0]
            found.append(judging.level(text, triple, at_least(triple, LEAST_KEPT), main=main))
    return Claims(found)


def figure(table: pd.DataFrame) -> Figure:
    """What each stage keeps of the base, in percent: a panel for each score, a group for each method.

    Args:
        table: `scores.over_seeds` of COLUMNS by name and stage.
    """
    names, stages = (list(dict.fromkeys(table.index.get_level_values(i))) for i in range(2))
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, len(COLUMNS), figsize=(3.1 * len(COLUMNS), 2.9), squeeze=False)
        for axis, column in zip(axes[0], COLUMNS, strict=True):
            for i, stage in enumerate(stages):
                rows = table.xs(stage, level=1)
                x = np.array([names.index(name) for name in rows.index]) + 0.22 * (i - 1)
                plots.points(axis, x, rows[column], color=plots.colour(stage), label=stage)
            axis.set_xticks(range(len(names)), names, rotation=30, ha="right")
            axis.set_title(column)
        axes[0, 0].set_ylabel("percent")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, fontsize=7, loc="outside upper center", ncols=len(stages))
    return figure


# The runs are Table 1's.
EXPERIMENT = replace(table1.EXPERIMENT, name="table3", title="Table 3: stages", section=section)
