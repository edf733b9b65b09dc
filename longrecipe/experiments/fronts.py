"""Trade-off between long and general skill: merge rules, merge weights and other replays. This kit's own experiment."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claims
from longrecipe.experiments import judging
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import MERGES
from longrecipe.experiments.scores import GENERAL, in_order, over_seeds

METHODS = ("flt", "rpes", "pose", "longrecipe")
OURS = {"method": "longrecipe"}
REPLAYED = "the replayed model"


def section(rows: pd.DataFrame) -> pd.DataFrame:
    """Every model, method, replay and merge, for results/README.md."""
    each = rows[(rows["weight"] > 0) | (rows["rule"] == "uniform")]
    each = each.assign(rule=each["rule"].where(each["weight"] > 0, "none"))
    each = in_order(each).sort_values(["model", "target"], kind="stable")
    return over_seeds(each, ["model", "target", "name", "replay", "rule", "weight"], ["NIAH(M)", *GENERAL])


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
    """Long-context score against general score over the merge weight. Up and to the right is better.

    Curves are the methods with the default replay and merged by spare_qk, LongRecipe merged by the uniform rule, and
    LongRecipe with replays that differ in one part and have as many steps. `means` has all others.

    Args:
        rows: `means`.
    """
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDTH_INCHES, 4.6))
        ends = []
        for name, line, style in _curves(rows):
            axis.plot(line[x], line[y], ms=5, lw=1.4, **style)
            # The rules start at one point, so the label of the second is at its other end.
            uniform = name.endswith("uniform")
            end = -1 if uniform else 0
            ends.append((line[x].iloc[end], line[y].iloc[end], name, style["color"]))
            if not uniform:
                axis.plot(line[x].iloc[0], line[y].iloc[0], ms=9, **style)
            else:
                for _, point in line.iloc[1:].iterrows():
                    at = {"xy": (point[x], point[y]), "xytext": (-7, 3), "textcoords": "offset points"}
                    axis.annotate(f"{point['weight']:g}", **at, size=8, ha="right", color=style["color"])
        axis.set(xlabel=f"{x}, percent of the base (large markers: not merged; numbers: merge weight)")
        axis.set_ylabel(f"{y} at the target, percent")
        axis.margins(x=0.06, y=0.08)
        plots.label_ends(axis, ends)
        drawn = f"Curves of {y} over {x}, from weight 0 (large markers) to larger merge weights (numbers)."
        plots.describe(figure, drawn, _finding(rows, y))
    return figure


def _curves(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame, dict]]:
    """The curves of the figure: label, rows of `means` by rising weight, and style."""
    first, spared = rows["replay"].iloc[0], rows["rule"] == "spare_qk"
    curves = []
    for name, line in rows[spared & (rows["replay"] == first)].groupby("name", sort=False):
        label = f"{name}, merged by spare_qk" if name == "LongRecipe" else name
        curves.append((label, line, {"color": plots.colour(name), "marker": plots.marker(name), "ls": "-"}))
    ours = rows[rows["name"] == "LongRecipe"]
    uniform, ours = (ours[ours["rule"] == rule] for rule in ("uniform", "spare_qk"))
    uniform = uniform[uniform["replay"] == first]
    others = [("LongRecipe, merged by uniform", uniform, "blue", "D")]
    changes = {replay: _changed(replay, first) for replay in ours["replay"].unique() if replay != first}
    one = [(replay, change) for replay, change in changes.items() if "," not in change and "steps" not in change]
    for (replay, change), shade, marker in zip(one, ("purple", "grey"), ("v", "P"), strict=False):
        others.append((f"LongRecipe, replay with {change}", ours[ours["replay"] == replay], shade, marker))
    for label, line, shade, marker in others:
        curves.append((label, line, {"color": plots.PALETTE[shade], "marker": marker, "ls": "--"}))
    return [curve for curve in curves if len(curve[1])]


def _finding(rows: pd.DataFrame, column: str) -> str:
    """What merging at weight 0.5 makes of LongRecipe's score, by each rule; empty without these merges."""
    some = usual(rows).drop_duplicates(["rule", "weight"]).set_index(["rule", "weight"])[column]
    wanted = [("spare_qk", 0.0), ("spare_qk", 0.5), ("uniform", 0.5)]
    if not set(wanted) <= set(some.index):
        return ""
    kept, spared, uniform = (some[each] for each in wanted)
    return (
        f"Merging at weight 0.5 takes LongRecipe's {column} from {kept:.1f} to {uniform:.1f} by the paper's rule "
        f"(uniform), to {spared:.1f} by spare_qk"
    )


EXPERIMENT = Experiment(
    name="fronts",
    title="Trade-off of long and short text: replay and merging",
    variants=(
        *({"method": method} for method in METHODS),
        OURS | {"replay_kl_weight": 0.0},
        OURS | {"replay_long_share": 0.0},
        OURS | {"replay_long_share": 0.0, "replay_kl_weight": 0.0},
        *(OURS | {"replay_steps": steps} for steps in (40, 80)),
    ),
    protocol=MERGES,
    section=section,
)
