"""Trade-off between long and general skill: merge rules, merge weights and other replays. This kit's own experiment."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claims
from longrecipe.experiments import judging
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import MERGES
from longrecipe.experiments.scores import GENERAL

METHODS = ("flt", "rpes", "pose", "longrecipe")
OURS = {"method": "longrecipe"}
REPLAYED = "the replayed model"


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds of `scores.front_scores`, by name, replay, rule and rising weight, and the number of seeds."""
    by = rows.groupby(["name", "replay", "rule", "weight"], sort=False)
    found = by[["NIAH(M)", *GENERAL]].mean()
    return found.assign(seeds=by["seed"].count()).reset_index().sort_values("weight", kind="stable")


def usual(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scores.front_scores` of LongRecipe with the usual replay, which is the first one."""
    return rows[(rows["name"] == "LongRecipe") & (rows["replay"] == rows["replay"].iloc[0])]


def replayed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of LongRecipe that are not merged (weight 0, where all rules are one), for every replay."""
    return rows[(rows["name"] == "LongRecipe") & (rows["weight"] == 0) & (rows["rule"] == "spare_qk")]


def claims(rows: pd.DataFrame) -> Claims:
    """What alternatives of replay and merging bring LongRecipe, long and short: NIAH(M), and perplexity kept.

    Main claims are about merging: the paper's average of all tensors at weight 0.5, and this kit's rule, against the
    replayed model and each other. Other replays are compared before merging, and named by what differs.

    Args:
        rows: `scores.front_scores`, those of the usual replay first.
    """
    first, *others = dict.fromkeys(rows.loc[rows["name"] == "LongRecipe", "replay"])
    names = {first: "the default replay"} | {other: f"replay with {_changed(other, first)}" for other in others}
    merged = usual(rows).assign(name=lambda some: [_merge(row.rule, row.weight) for row in some.itertuples()])
    merged = merged.drop_duplicates(["name", "seed"])
    alone = replayed(rows).assign(name=lambda some: some["replay"].map(names))
    paper, spared, default = _merge("uniform", 0.5), _merge("spare_qk", 0.5), _merge("spare_qk", 0.25)
    by_rule = [(paper, REPLAYED, 0.0), (spared, paper, 0.0), (default, REPLAYED, 0.0)]
    by_replay = [(names[first], names[other], 0.0) for other in others]
    found = []
    for column in ("NIAH(M)", "perplexity kept"):
        found += judging.compared(merged, by_rule, column)
        found += judging.compared(alone, by_replay, column, main=False)
    return Claims(found)


def _merge(rule: str, weight: float) -> str:
    return f"{rule} merge at {weight:g}" if weight else REPLAYED


def _changed(replay: str, default: str) -> str:
    pairs = zip(replay.split(", "), default.split(", "), strict=True)
    return ", ".join(part for part, usual in pairs if part != usual)


def figure(rows: pd.DataFrame, x: str = "perplexity kept", y: str = "NIAH(M)") -> Figure:
    """Long-context score against general score over the merge weight: by method and rule on the left, by replay on the
    right. Up and to the right is better.

    Args:
        rows: `means`.
    """
    with plt.rc_context(plots.STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 4.4), sharey=True)
        default = rows[rows["replay"] == rows["replay"].iloc[0]]
        for (name, rule), line in default.groupby(["name", "rule"], sort=False):
            style = {"ls": "-" if rule == "spare_qk" else ":", "marker": "o", "ms": 4, "lw": 1.2}
            left.plot(line[x], line[y], color=plots.colour(name), label=f"{name}, {rule}", **style)
        ours = rows[(rows["name"] == "LongRecipe") & (rows["rule"] == "spare_qk")]
        shades = sns.color_palette("colorblind")
        for (replay, line), shade in zip(ours.groupby("replay", sort=False), shades, strict=False):
            right.plot(line[x], line[y], "o-", ms=4, lw=1.2, color=shade, label=replay)
        for axis, title in ((left, "methods; solid: queries and keys spared"), (right, "LongRecipe, by replay")):
            axis.set(title=title, xlabel=f"{x}, percent of the base")
            axis.legend(fontsize=6.5, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
        left.set_ylabel(f"{y} at the target, percent")
        for _, point in ours[ours["replay"] == rows["replay"].iloc[0]].iterrows():
            at = (point[x], point[y])
            right.annotate(f"{point['weight']:g}", at, (0, 6), textcoords="offset points", fontsize=7, ha="center")
    return figure


EXPERIMENT = Experiment(
    name="fronts",
    title="Long against general skill",
    variants=(
        *({"method": method} for method in METHODS),
        OURS | {"replay_kl_weight": 0.0},
        OURS | {"replay_long_share": 0.0},
        OURS | {"replay_long_share": 0.0, "replay_kl_weight": 0.0},
        *(OURS | {"replay_steps": steps} for steps in (40, 80)),
    ),
    protocol=MERGES,
)
