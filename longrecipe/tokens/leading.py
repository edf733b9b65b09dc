"""Claims about the type that leads a token analysis: numerals, in the paper."""

import pandas as pd

from longrecipe.claims import Claim, interval, judge
from longrecipe.tokens.ranking import RANKED_BY, Analysis

# The least correlation of lifts between halves of the documents.
STABLE = 0.9


def claims(found: Analysis, name: str, where: str = "", *, main: bool = True) -> list[Claim]:
    """The claims about a token analysis; name: the type of numerals; where: what comes before each claim.

    The largest share is the paper's figure (Figure 4), the largest mean shift is its eq. 3 per occurrence; leading by
    lift and the threshold of stability are this kit's reading of section 4.1. Types that are not `frequent` are left
    out.
    """
    rows, judged = found.ranking[found.ranking["frequent"]].set_index("type"), []
    for column, text in RANKED_BY.items():
        leads, measured = _compared(rows[column], name)
        limits = interval(tuple(rows.loc[name, [column, f"{column}_low", f"{column}_high"]]), 2)
        judged.append(Claim(f"{where}{name} has the largest {text}", judge(leads), measured, limits, main=main))
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
    judged, rows = [], rankings[rankings["frequent"] & (rankings["by"] == "pos")]
    for positions, beyond in (("all", ""), ("beyond", "beyond the window, ")):
        tables = [table.set_index("type") for _, table in rows[rows["positions"] == positions].groupby("seed")]
        for column, text in RANKED_BY.items():
            leads, measured = zip(*(_compared(table[column], name) for table in tables), strict=True)
            claim, limits = f"{where}{beyond}{name} has the largest {text}", ""
            if len(tables) == 1:
                limits = interval(tuple(tables[0].loc[name, [column, f"{column}_low", f"{column}_high"]]), 2)
            judged.append(Claim(claim, judge(all(leads)), "; ".join(measured), limits, main=positions == "all"))
    return judged


def rise_claims(rises: pd.DataFrame, name: str, where: str = "") -> list[Claim]:
    """The claim that the lift of numerals rises most from inside the window to beyond it, for every seed.

    Args: rises: `rises` of parts of speech, with a column seed (see `results.joined`); name and where as for
    `saved_claims`. The interval is that of one seed. No claim without rows.
    """
    if not len(rises):
        return []
    tables = [table.set_index("type") for _, table in rises.groupby("seed")]
    leads, measured = zip(*(_compared(table["rise"], name) for table in tables), strict=True)
    limits = interval(tuple(tables[0].loc[name, ["rise", "low", "high"]]), 2) if len(tables) == 1 else ""
    text = f"{where}from inside the window to beyond it, the lift of {name} rises most"
    return [Claim(text, judge(all(leads)), "; ".join(f"{each} times" for each in measured), limits)]


def _compared(values: pd.Series, name: str) -> tuple[bool, str]:
    """Whether a type has the largest value, and its value next to that of the first other type."""
    ordered = values.sort_values(ascending=False, kind="stable")
    first = ordered.index[0]
    other = ordered.index[1] if first == name else first
    return first == name, f"{values[name]:.2f}, {other} {values[other]:.2f}"
