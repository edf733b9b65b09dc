"""Harder text, in which not every number is a fact. This kit's own experiment.

At scale mini every number in the text is a fact or repeats one, and the scores are recall of facts. So selection and
weights by numbers contain what is asked by construction. Here as many other numbers are in the text as statements, in
documents, analysis, training and evaluation.
"""

import pandas as pd

from longrecipe.claims import Claims, at_least, at_most
from longrecipe.experiments import beyond, judging, weights
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import BEYOND
from longrecipe.experiments.scores import NAMES, final, over_seeds
from longrecipe.experiments.weights import ANCHORS, FIFTH

OTHERS = beyond.CHEAP_ANALYSIS | {"distractors": 1.0}
FLT = weights.named(NAMES["flt"], **OTHERS, method="flt")


def section(table: pd.DataFrame) -> pd.DataFrame:
    """Runs on harder text, for results/README.md."""
    return beyond.section(beyond.on_text(table, usual=False))


def compared(model: str, target: int) -> pd.DataFrame:
    """The finished runs of a model on harder text, a row for each run with its label as name; no rows if none has
    finished."""
    found = beyond.on_text(beyond.rows(), model, target, usual=False)
    if len(found):
        found = final(found)
        trained = found["method"] != "none"
        found.loc[trained, "name"] = [weights.label(row) for row in found[trained].to_dict("records")]
    return found


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores over seeds by text and name, the best first; rows: `compared`."""
    found = over_seeds(rows, ["text", "name"], ["NIAH(M)", "recall", "perplexity kept"])
    return found.sort_values(["text", ("NIAH(M)", "mean")], ascending=[True, False])


def claims(rows: pd.DataFrame) -> Claims:
    """The goal of the weighted recipe on each text, and what weights add there; rows: `compared`."""
    found, plain, weighted = [], weights.FIFTH_PLAIN, weights.FIFTH_WEIGHTED
    for text, some in rows.groupby("text", sort=False) if len(rows) else ():
        where, have = f" with {text}", set(some["name"])
        pairs = [(weighted, FLT, 0.0), (weighted, plain, 0.0), (plain, FLT, -judging.WITHIN)]
        found += judging.compared(some, [pair for pair in pairs if set(pair[:2]) <= have], where=where)
        if {FLT, weighted} <= have:
            took = judging.share(some, weighted, FLT, column="training seconds")
            claim = f"all training{where}: {weighted} takes at most {weights.MOST_OF_FIFTH:g} % of FLT's seconds"
            found.append(judging.level(claim, took, at_most(took, weights.MOST_OF_FIFTH)))
        if weighted in have:
            kept = judging.mean(some, weighted, "perplexity kept")
            claim = f"perplexity kept{where}: {weighted} has at least {weights.LEAST_KEPT:g} %"
            found.append(judging.level(claim, kept, at_least(kept, weights.LEAST_KEPT), main=False))
    return Claims(found)


EXPERIMENT = Experiment(
    name="control",
    title="Text with other numbers than facts",
    variants=(
        OTHERS | {"method": "none"},
        OTHERS | {"method": "flt"},
        OTHERS | FIFTH,
        OTHERS | FIFTH | ANCHORS,
    ),
    protocol=BEYOND,
    section=section,
)
