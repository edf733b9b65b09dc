"""Claims about scores, judged by intervals over seeds."""

from collections.abc import Iterable

import pandas as pd

from longrecipe.cost.record import NOT_MEASURED
from longrecipe.stats import seed_interval

# Points below FLT that still count as FLT's skill.
WITHIN = 2.0
Triple = tuple[float, float, float]


def at_least(triple: Triple, least: float) -> str:
    """The verdict on "a mean is at least a number", from the mean with its interval (mean, low, high).

    Returns `holds` if all of the interval is, `DOES NOT HOLD` if none of it is, `not settled` otherwise, and `not
    measured` if there is no interval.
    """
    _, low, high = triple
    if pd.isna(low):
        return NOT_MEASURED
    return "holds" if low >= least else "DOES NOT HOLD" if high < least else "not settled"


def at_most(triple: Triple, most: float) -> str:
    """The verdict on "a mean is at most a number", as `at_least`."""
    mean, low, high = triple
    return at_least((-mean, -high, -low), -most)


def difference(frame: pd.DataFrame, one: str, other: str, *, column: str) -> Triple:
    """Mean over seeds of a column's difference, one name minus another, paired by seed, with its 95 % interval.

    Args:
        frame: one row for each name and seed; fewer than two pairs give NaN.

    Raises ValueError if a seed has several rows of one name.
    """
    table = frame.pivot(index="seed", columns="name", values=column)
    return _interval(table[one] - table[other])


def share(frame: pd.DataFrame, one: str, other: str, *, column: str) -> Triple:
    """Mean over seeds of a column's ratio between two names, in percent, paired by seed, with its 95 % interval."""
    table = frame.pivot(index="seed", columns="name", values=column)
    return _interval(100 * table[one] / table[other])


def _interval(values: pd.Series) -> Triple:
    known = values.dropna().tolist()
    return seed_interval(known) if len(known) > 1 else (float("nan"),) * 3


def compared(frame: pd.DataFrame, claimed: Iterable[tuple[str, str, float]], column: str = "NIAH(M)") -> pd.DataFrame:
    """Claims of the form "one is at least another plus points", judged by the paired difference over seeds.

    Args:
        frame: one row for each name and seed.
        claimed: (one, other, points) for each claim.
    """
    rows = []
    for one, other, points in claimed:
        triple = difference(frame, one, other, column=column)
        margin = f" {'+' if points > 0 else '-'} {abs(points):g}" if points else ""
        rows.append((f"{column}: {one} >= {other}{margin}", *triple, at_least(triple, points)))
    return table(rows)


def table(rows: Iterable[tuple[str, float, float, float, str]]) -> pd.DataFrame:
    """Claims as a table with the columns mean, low, high and verdict."""
    return pd.DataFrame(rows, columns=["claim", "mean", "low", "high", "verdict"]).set_index("claim")


def lines(claims: pd.DataFrame) -> str:
    """One line for each claim: verdict, claim, mean and its 95 % interval if there is one."""
    found = []
    for row in claims.itertuples():
        mean = "" if pd.isna(row.mean) else f": {row.mean:.1f}"
        interval = "" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"
        found.append(f"{row.verdict:15}{row.Index}{mean}{interval}")
    return "\n".join(found)
