"""Claims about the type that leads a token analysis: numerals, in the paper."""

from collections.abc import Sequence

import pandas as pd

from longrecipe.claims import Claim, interval, judge
from longrecipe.tokens.ranking import RANKED_BY, Analysis

# The least correlation of lifts between halves of the documents.
STABLE = 0.9


def claims(found: Analysis, name: str, where: str = "", *, main: bool = True) -> list[Claim]:
    """The claims about a token analysis; name: the type of numerals; where: what comes before each claim.

    The largest share is the paper's figure (Figure 4), the largest mean shift is its eq. 3 per occurrence; leading by
    lift and the threshold of stability are this kit's reading of section 4.1. Types that are not `frequent` are left
    out. Numerals that are not are "not measured".
    """
    rows = found.ranking[found.ranking["frequent"]].set_index("type")
    judged = [
        _leads(f"{where}{name} has the largest {text}", [rows], column, name, main=main)
        for column, text in RANKED_BY.items()
    ]
    agree = f"{where}lifts of two halves of the documents agree, Spearman's correlation of at least {STABLE:g}"
    return [*judged, Claim(agree, judge(found.stability >= STABLE), f"{found.stability:.2f}", main=False)]


def saved_claims(rankings: pd.DataFrame, name: str, where: str = "") -> list[Claim]:
    """The claims about the leading part of speech in saved analyses. A claim holds if it holds for every seed.

    Args:
        rankings: the table of results with a column seed, see `results.joined`; of runs that differ in the seed alone.
        name: the type of numerals.
        where: what comes before each claim.

    Claims about positions beyond the base's window come after those about all positions, and are not main. The interval
    is that of one seed, over documents; with several seeds there is none.
    """
    rows = rankings[rankings["frequent"] & (rankings["by"] == "pos")]
    return [
        _leads(f"{where}{beyond}{name} has the largest {text}", tables, column, name, main=positions == "all")
        for positions, beyond in (("all", ""), ("beyond", "beyond the window, "))
        if (tables := _by_seed(rows[rows["positions"] == positions]))
        for column, text in RANKED_BY.items()
    ]


def rise_claims(rises: pd.DataFrame, name: str, where: str = "") -> list[Claim]:
    """The claim that the mean shift of numerals rises most from inside the window to beyond it, for every seed.

    Args: rises: `rises` or `saved_rises`, with a column seed; name and where as for `saved_claims`. No claim without
    rows.
    """
    text = f"{where}from inside the window to beyond it, the mean shift of {name} rises most"
    return [_leads(text, tables, "rise", name)] if (tables := _by_seed(rises)) else []


def saved_rises(rankings: pd.DataFrame) -> pd.DataFrame:
    """`rises` of parts of speech from saved analyses, by seed, as differences of sums, without intervals.

    rankings: as for `saved_claims`.
    """
    rows = rankings[rankings["by"] == "pos"].set_index(["seed", "type"])
    every, beyond = (rows[rows["positions"] == positions] for positions in ("all", "beyond"))
    frequent = every.index[every["frequent"]].intersection(beyond.index[beyond["frequent"]])
    every, beyond = every.loc[frequent], beyond.loc[frequent]
    inside = (every["sum_shift"] - beyond["sum_shift"]) / (every["count"] - beyond["count"])
    found = pd.DataFrame({"inside": inside, "beyond": beyond["mean_shift"], "rise": beyond["mean_shift"] - inside})
    found = found.assign(rise_low=float("nan"), rise_high=float("nan")).reset_index()
    return found.sort_values(["seed", "rise"], ascending=[True, False], kind="stable", ignore_index=True)


def _by_seed(rows: pd.DataFrame) -> list[pd.DataFrame]:
    return [table.set_index("type") for _, table in rows.groupby("seed")] if len(rows) else []


def _leads(text: str, tables: Sequence[pd.DataFrame], column: str, name: str, *, main: bool = True) -> Claim:
    """The claim that a type has the largest value of a column in every table, whose index are the types.

    It is found with the value next to that of the first other type, and the interval if there is one table.
    """
    if not all(name in table.index for table in tables):
        return Claim(text, judge(None), f"{name} is rare in this text", main=main)
    holds, found = True, []
    for table in tables:
        values = table[column].sort_values(ascending=False, kind="stable")
        holds = holds and values.index[0] == name
        first_other = [f"{other} {value:.2f}" for other, value in values.drop(name).head(1).items()]
        found.append(", ".join([f"{values[name]:.2f}", *first_other]))
    limits = ""
    if len(tables) == 1:
        limits = interval(tuple(tables[0].loc[name, [column, f"{column}_low", f"{column}_high"]]), 2)
    return Claim(text, judge(holds), "; ".join(found), limits, main=main)
