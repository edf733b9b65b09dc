"""Harder text, in which anchors are less clearly what is asked for. This kit's own experiment.

At scale mini every number in the text is a fact or repeats one, and the scores are recall of facts. So selection and
weights by numbers contain what is asked by construction. Here one or three other numbers are in the text for each
statement of a fact, or the values of facts are words: in documents, analysis, training and evaluation.
"""

import pandas as pd

from longrecipe.claims import Claims, at_most
from longrecipe.experiments import beyond, judging, weights
from longrecipe.experiments.experiment import Experiment
from longrecipe.experiments.protocols import BEYOND
from longrecipe.experiments.scores import NAMES, final, over_seeds
from longrecipe.experiments.weights import ANCHORS, FIFTH, SHORT

HARDER = {"distractors": 1.0}, {"distractors": 3.0}, {"fact_values": "words"}
WHOLE = beyond.CHEAP_ANALYSIS | {"method": "flt"}
FLT = weights.named(NAMES["flt"], **WHOLE)


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
    """The goals of the weighted recipes on each text, and what weights add there; rows: `compared`."""
    found, plain, weighted = [], weights.FIFTH_PLAIN, weights.FIFTH_WEIGHTED
    for text, some in rows.groupby("text", sort=False) if len(rows) else ():
        where, have = f" with {text}", set(some["name"])
        found += weights.goals(some, FLT, where)
        if {FLT, weighted} <= have:
            took = judging.share(some, weighted, FLT, column="training seconds")
            claim = f"all training{where}: {weighted} takes at most {weights.MOST_OF_FIFTH:g} % of FLT's seconds"
            found.append(judging.level(claim, took, at_most(took, weights.MOST_OF_FIFTH)))
        pairs = [(weighted, plain, 0.0), (plain, FLT, -judging.WITHIN)]
        found += judging.compared(some, [pair for pair in pairs if set(pair[:2]) <= have], where=where)
    return Claims(found)


EXPERIMENT = Experiment(
    name="control",
    title="Harder text",
    variants=(
        *(
            beyond.CHEAP_ANALYSIS | variant | text
            for text in HARDER
            for variant in ({"method": "none"}, FIFTH, FIFTH | ANCHORS)
        ),
        # Training on whole samples takes long.
        *(variant | HARDER[0] for variant in (WHOLE, SHORT | ANCHORS)),
    ),
    protocol=BEYOND,
    section=section,
)
