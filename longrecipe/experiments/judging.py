"""Claims about scores, judged by intervals over seeds."""

import math
from collections.abc import Iterable

import pandas as pd

from longrecipe import claims
from longrecipe.claims import Claim
from longrecipe.stats import Triple, seed_interval

# Points below FLT that still count as FLT's skill.
WITHIN = 2.0


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


def mean(frame: pd.DataFrame, name: str, column: str) -> Triple:
    """Mean over seeds of a column of one name, with its 95 % interval; NaN for fewer than two seeds."""
    return _interval(frame.loc[frame["name"] == name, column])


def _interval(values: pd.Series) -> Triple:
    known = values.dropna().tolist()
    return seed_interval(known) if len(known) > 1 else (float("nan"),) * 3


def compared(
    frame: pd.DataFrame,
    claimed: Iterable[tuple[str, str, float]],
    column: str = "NIAH(M)",
    *,
    main: bool = True,
    where: str = "",
) -> list[Claim]:
    """Claims of the form "one is at least another plus points", judged by the paired difference over seeds.

    Args:
        frame: one row for each name and seed.
        claimed: (one, other, points) for each claim; points below 0 are a margin.
        column: the score that is compared; more is better.
        where: what follows its name in the claim, such as ` at T = 4096`.
    """
    found = []
    for one, other, points in claimed:
        triple = difference(frame, one, other, column=column)
        least = f"at most {-points:g} points below" if points < 0 else f"at least {points:g} points above"
        text = f"{column}{where}: {one} is {least if points else 'at least as good as'} {other}"
        measured, interval = claims.difference(triple, other, margin=max(-points, 0))
        found.append(Claim(text, claims.at_least(triple, points), measured, interval, main=main))
    return found


def level(text: str, triple: Triple, verdict: str, *, main: bool = True) -> Claim:
    """A claim about one number in percent, its mean over seeds with the interval."""
    found = "" if math.isnan(triple[0]) else f"{claims.number(triple[0])} %"
    return Claim(text, verdict, found, claims.interval(triple), main=main)
