"""Loss weights at equal compute: whether impactful tokens belong in the loss. This kit's own experiment."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import plots
from longrecipe.claims import Claim, Claims, at_least, at_most
from longrecipe.data.weights import SCHEMES
from longrecipe.experiments import beyond, judging
from longrecipe.experiments.beyond import CHEAP_ANALYSIS
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import BEYOND
from longrecipe.experiments.scores import NAMES, over_seeds
from longrecipe.settings import Params

# The two recipes: a fifth of the tokens for the score of training on whole samples, and less than a sixth for a score
# near it, both with more steps of stage 1 than the paper's recipe, which this kit trains for 40.
FIFTH = CHEAP_ANALYSIS | {"method": "longrecipe", "ratio": 0.2, "extend_steps": 60, "n_documents": 480}
SHORT = FIFTH | {"ratio": 0.15, "replay_steps": 100, "replay_long_share": 0.45}
ANCHORS = {"loss_weight": "anchor"}
OTHERS = tuple({"loss_weight": scheme} for scheme in SCHEMES if scheme != "anchor")
# FLT with about as much compute as the first recipe: 12 of its 100 long steps, and all 60 short steps of replay.
FEW = CHEAP_ANALYSIS | {
    "method": "flt",
    "extend_steps": 6,
    "n_documents": 48,
    "replay_steps": 66,
    "replay_long_share": 0.09,
}
POSE = FIFTH | {"method": "pose"}
# The most of the seconds and FLOPs of training on whole samples, percent; points of NIAH(M) that a recipe may be below
# it; the least perplexity kept, percent.
MOST_OF_FIFTH, MOST_OF_SHORT, BELOW_SHORT, LEAST_KEPT = 15.0, 10.0, 2.0, 97.0
# Percent of NIAH(M); lower scores are left out of the figure.
LEAST_SHOWN = 50.0
FLOPS, SHARE = "training TFLOP", "all training, % of FLT's FLOPs"
SECONDS, SHARE_OF_TIME = "training seconds", "% of FLT's seconds"


def section(table: pd.DataFrame) -> pd.DataFrame:
    """Runs on the usual text with the paper's RoPE rule, for results/README.md."""
    return beyond.section(beyond.on_text(table, usual=True))


def compared(model: str, target: int) -> pd.DataFrame:
    """The finished runs of a model that are compared, a row for each run: those of Table 1 by their names, those of
    Figure 2 with their ratio, and those of this experiment by their labels. No rows if nothing has finished."""
    tables = (beyond.published(model, target), beyond.rows())
    ours = [beyond.on_text(rows, model, target, usual=True) for rows in tables]
    paper, own = (rows[rows["stage"] == "merged"] if len(rows) else rows for rows in ours)
    if len(paper):
        usual = paper["ratio"].isin([1.0, Params.model_fields["ratio"].default])
        paper = paper.assign(
            name=paper["name"].where(usual, paper["name"] + paper["ratio"].map(lambda ratio: f", {100 * ratio:g} %"))
        )
    own = own.assign(name=[label(row) for row in own.to_dict("records")])
    return pd.concat([rows for rows in (paper, own) if len(rows)] or [paper], ignore_index=True)


def label(row: dict) -> str:
    """The name of a run in this experiment, such as `LongRecipe, 20 %, 60 + 60 steps, anchor 9`."""
    share = "" if row["name"] == NAMES["flt"] else f", {100 * row['ratio']:g} %"
    weights = "" if row["weights"] == "none" else f", {row['weights']}"
    return f"{row['name']}{share}, {row['steps']} steps{weights}{', ' + row['analysis'] if row['analysis'] else ''}"


def named(name: str, **settings: object) -> str:
    """The label of the run of a method, by its title, with these settings."""
    return label(beyond.about(settings) | {"name": name})


FIFTH_PLAIN, FIFTH_WEIGHTED, SHORT_PLAIN, SHORT_WEIGHTED = (
    named(NAMES["longrecipe"], **recipe) for recipe in (FIFTH, FIFTH | ANCHORS, SHORT, SHORT | ANCHORS)
)
FEW_PLAIN, FEW_WEIGHTED = (named(NAMES["flt"], **recipe) for recipe in (FEW, FEW | ANCHORS))
POSE_WEIGHTED = named(NAMES["pose"], **POSE | ANCHORS)
# The same with the token analysis of the paper's tables, which finds numbers on Mistral, too.
USUAL_ANALYSIS = {name: Params.model_fields[name].default for name in CHEAP_ANALYSIS}
FIFTH_USUAL, SHORT_USUAL = (
    named(NAMES["longrecipe"], **recipe | ANCHORS | USUAL_ANALYSIS) for recipe in (FIFTH, SHORT)
)
# The first recipe with other weights than those of anchors.
OTHER_SCHEMES = [named(NAMES["longrecipe"], **FIFTH | scheme) for scheme in OTHERS]


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores, and the model FLOPs and seconds of all training in percent of FLT's, over seeds; the best score first.

    Args:
        rows: `compared`. The runs of Table 1 are from several machines, so seconds are only those of the recipes.
    """
    whole = rows.loc[rows["name"] == NAMES["flt"], FLOPS].mean()
    rows = rows.assign(**{SHARE: 100 * rows[FLOPS] / whole, SHARE_OF_TIME: share_of_time(rows)})
    shares = [SHARE, SHARE_OF_TIME] if rows[SHARE_OF_TIME].notna().any() else [SHARE]
    found = over_seeds(rows, ["name"], ["NIAH(M)", "recall", "perplexity kept", *shares])
    return found.sort_values(("NIAH(M)", "mean"), ascending=False)


def share_of_time(rows: pd.DataFrame) -> pd.Series:
    """The seconds of all training of both weighted recipes in percent of FLT's, by row of `compared`; NaN for others.

    FLT's are scaled from those of FEW in the same sweep and with the same seed: s for a long step of stage 1, and the
    seconds of FEW plus those of the long steps that it leaves out, at s each. The long steps of replay are as long.
    """
    p = Params(**FEW)
    whole = Params(method="flt")
    left_out = whole.extend_steps + whole.replay_long_steps - p.extend_steps - p.replay_long_steps
    few = rows[rows["name"] == FEW_PLAIN].set_index("seed")
    flt = few[SECONDS] + left_out * few["stage 1 seconds"] / p.extend_steps
    took = 100 * rows[SECONDS] / rows["seed"].map(flt)
    return took.where(rows["name"].isin([FIFTH_WEIGHTED, SHORT_WEIGHTED]))


def claims(rows: pd.DataFrame, where: str = "", *, main: bool = True) -> Claims:
    """The goals of both weighted recipes, against FLT and against LongRecipe as published, and what weights add.

    Claims about runs that have not finished are left out.

    Args:
        rows: `compared`.
        where: what follows each claim, such as the name of the model.
        main: whether the goals are main claims.
    """
    published = NAMES["longrecipe"]
    have = set(rows["name"]) if len(rows) else set()
    pairs = [(FIFTH_WEIGHTED, published), (SHORT_WEIGHTED, published), (FIFTH_WEIGHTED, FIFTH_PLAIN)]
    # With about the same compute.
    pairs += [(FIFTH_WEIGHTED, each) for each in (FEW_PLAIN, FEW_WEIGHTED, POSE_WEIGHTED)]
    pairs += [(SHORT_WEIGHTED, SHORT_PLAIN)]
    pairs += [pair for each in OTHER_SCHEMES for pair in ((FIFTH_WEIGHTED, each), (each, FIFTH_PLAIN))]
    others = [(one, other, 0.0) for one, other in pairs if {one, other} <= have]
    return Claims(
        [*goals(rows, NAMES["flt"], where, main=main), *judging.compared(rows, others, main=False, where=where)]
    )


def goals(rows: pd.DataFrame, flt: str, where: str = "", *, main: bool = True) -> list[Claim]:
    """The goals of the weighted recipes: a score near FLT's, little compute, and the base's perplexity.

    Args:
        rows: a row for each run; goals whose runs have not finished are left out.
        flt: the name of training on whole samples in rows.
        where: what follows each claim, such as the name of the model.
        main: whether they are main claims.
    """
    have = set(rows["name"]) if len(rows) else set()
    recipes = [(name, 0.0, MOST_OF_FIFTH) for name in (FIFTH_WEIGHTED, FIFTH_USUAL)]
    recipes += [(name, BELOW_SHORT, MOST_OF_SHORT) for name in (SHORT_WEIGHTED, SHORT_USUAL)]
    found = []
    for name, below, most in recipes:
        if {name, flt} <= have:
            found += judging.compared(rows, [(name, flt, -below)], main=main, where=where)
            took = judging.share(rows, name, flt, column=FLOPS)
            text = f"all training{where}: {name} takes at most {most:g} % of FLT's FLOPs"
            found.append(judging.level(text, took, at_most(took, most), main=main))
        if {name, FEW_PLAIN} <= have:
            took = judging.mean(rows.assign(share=share_of_time(rows)), name, "share")
            text = f"all training{where}: {name} takes at most {most:g} % of FLT's seconds, scaled from 12 long steps"
            found.append(judging.level(text, took, at_most(took, most), main=main))
        if name in have:
            kept = judging.mean(rows, name, "perplexity kept")
            text = f"perplexity kept{where}: {name} has at least {LEAST_KEPT:g} %"
            found.append(judging.level(text, kept, at_least(kept, LEAST_KEPT), main=main))
    return found


def figure(found: pd.DataFrame, x: str = SHARE, y: str = "NIAH(M)") -> Figure:
    """A score over what all training took: hollow markers without weights, filled ones with weights.

    Args:
        found: `table`; scores below LEAST_SHOWN and other schemes than anchors are not drawn.
    """
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(plots.WIDTH_INCHES, 5.2))
        axis.set(xscale="log", xlabel=f"{x} (token analysis, stage 1 and replay)", ylabel=f"{y} at the target, percent")
        # The recipe of Table 1 with 20 % is nearly that with more steps, and other schemes have their own table.
        left_out = [f"{NAMES['longrecipe']}, 20 %", *OTHER_SCHEMES]
        drawn = found[(found[y, "mean"] >= LEAST_SHOWN) & ~found.index.isin(left_out)]
        for name, row in drawn.iterrows():
            method = name.split(",")[0]
            is_weighted, is_left = "steps, " in name, "steps" in name and name != FEW_PLAIN
            style = {"color": plots.colour(method), "fmt": plots.marker(method), "ms": 6}
            plots.points(
                axis, [row[x, "mean"]], found.loc[[name], y], **style | ({} if is_weighted else {"mfc": "white"})
            )
            # The name of the method is that of its marker, in the legend.
            text = name.removeprefix(f"{method}, ").replace(" steps", "") if "," in name else name
            axis.annotate(
                text,
                (row[x, "mean"], row[y, "mean"]),
                (0, -12) if name == NAMES["longrecipe"] else (-7 if is_left else 7, 0),
                textcoords="offset points",
                ha="center" if name == NAMES["longrecipe"] else "right" if is_left else "left",
                va="center",
                color=style["color"],
                size=8,
                bbox={"fc": "white", "ec": "none", "pad": 0.6, "alpha": 0.8},
            )
        if (flt := NAMES["flt"]) in found.index:
            axis.axhline(found.loc[flt, (y, "mean")], color="black", lw=0.8, ls="--")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.set_xticks([5, 10, 20, 50, 100])
        axis.minorticks_off()
        axis.margins(x=0.45)
        for method in dict.fromkeys(name.split(",")[0] for name in found.index):
            axis.plot([], [], plots.marker(method), color=plots.colour(method), label=method)
        axis.plot([], [], "o", color="grey", mfc="white", label="hollow: all tokens count the same")
        axis.legend(loc="lower right")
        about = f"{y} over {x} with intervals over seeds: {'; '.join(drawn.index)}."
        plots.describe(figure, about, _finding(found, x, y))
    return figure


def _finding(found: pd.DataFrame, x: str, y: str) -> str:
    """What the weighted recipe at a fifth of the tokens scores and takes; empty without it or FLT."""
    if not {FIFTH_WEIGHTED, NAMES["flt"]} <= set(found.index):
        return ""
    ours, flt = (found.loc[name, (y, "mean")] for name in (FIFTH_WEIGHTED, NAMES["flt"]))
    return (
        f"Samples of 20 % of the target with weights on anchors score {ours:.1f}, whole samples {flt:.1f}; training "
        f"takes {found.loc[FIFTH_WEIGHTED, (x, 'mean')]:.0f} % of the FLOPs"
    )


EXPERIMENT = Experiment(
    name="weights",
    title="Loss weights at equal compute",
    variants=(
        FIFTH,
        FIFTH | ANCHORS,
        SHORT,
        SHORT | ANCHORS,
        FEW,
        FEW | ANCHORS,
        POSE | ANCHORS,
        *(FIFTH | scheme for scheme in OTHERS),
    ),
    protocol=BEYOND,
    section=section,
    main=(FIFTH | ANCHORS, SHORT | ANCHORS),
)
