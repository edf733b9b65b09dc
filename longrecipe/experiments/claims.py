"""Claims about scores, judged by intervals over seeds: what notebooks 04, 06 and 07 check.

All take rows of `tables.final(tables.scores(...))`, and give a row a claim: what was measured (mean, low, high) and the
verdict of `judged`.
"""

from collections.abc import Iterable, Mapping

import pandas as pd

from longrecipe.cost.record import NOT_MEASURED
from longrecipe.experiments.tables import GENERAL, NAMES
from longrecipe.stats import seed_interval

# Points below FLT that still count as FLT's skill; the most of FLT's seconds; the least of a general score to be kept.
WITHIN, MOST_SECONDS, LEAST_KEPT, MOST_OF_BASE = 2.0, 17.0, 97.0, 5.0
Triple = tuple[float, float, float]


def judged(triple: Triple, at_least: float) -> str:
    """Whether a mean with its interval (mean, low, high) is at least a number: holds where all of the interval is,
    DOES NOT HOLD where none of it is, else not settled; not measured where there is no interval."""
    _, low, high = triple
    if pd.isna(low):
        return NOT_MEASURED
    return "holds" if low >= at_least else "DOES NOT HOLD" if high < at_least else "not settled"


def judged_at_most(triple: Triple, at_most: float) -> str:
    """Whether a mean with its interval is at most a number, as `judged`."""
    mean, low, high = triple
    return judged((-mean, -high, -low), -at_most)


def difference(frame: pd.DataFrame, one: str, other: str, column: str) -> Triple:
    """Mean over seeds of a column's difference, one name minus another, paired by seed, with its 95 % interval.

    frame: one row a name and seed; fewer than two pairs give NaN. Raises ValueError where a seed has several rows.
    """
    table = frame.pivot(index="seed", columns="name", values=column)
    return _interval(table[one] - table[other])


def share(frame: pd.DataFrame, one: str, other: str, column: str) -> Triple:
    """Mean over seeds of a column's ratio between two names, in percent, paired by seed, with its 95 % interval."""
    table = frame.pivot(index="seed", columns="name", values=column)
    return _interval(100 * table[one] / table[other])


def _interval(values: pd.Series) -> Triple:
    there = values.dropna().tolist()
    return seed_interval(there) if len(there) > 1 else (float("nan"),) * 3


def compared(frame: pd.DataFrame, claimed: Iterable[tuple[str, str, float]], column: str = "NIAH(M)") -> pd.DataFrame:
    """Claims of the form "one is at least another plus points", judged by the paired difference over seeds.

    frame: one row a name and seed; claimed: (one, other, points).
    """
    rows = []
    for one, other, points in claimed:
        triple = difference(frame, one, other, column)
        margin = f" {'+' if points > 0 else '-'} {abs(points):g}" if points else ""
        rows.append((f"{column}: {one} >= {other}{margin}", *triple, judged(triple, points)))
    return _table(rows)


def lines(claims: pd.DataFrame) -> str:
    """A line a claim: verdict, claim, mean and 95 % interval, where there is one."""
    told = []
    for row in claims.itertuples():
        mean = "" if pd.isna(row.mean) else f": {row.mean:.1f}"
        interval = "" if pd.isna(row.low) else f" [{row.low:.1f}, {row.high:.1f}]"
        told.append(f"{row.verdict:15}{row.Index}{mean}{interval}")
    return "\n".join(told)


def of_methods(final: pd.DataFrame, steps: Mapping[int, float]) -> pd.DataFrame:
    """Table 1's claims at every target: LongRecipe against FLT (less 2 points), RPES and PoSE, and its share of FLT's
    seconds in stage 1; and this kit's own, that the base cannot read the target.

    steps: by target, the seconds of one LongRecipe step in percent of FLT's, from one benchmark; it has no interval.
    """
    tables = []
    for target, frame in final.groupby("target", sort=False):
        base = seed_interval(frame.loc[frame["name"] == "base", "recall"].tolist())
        first = [(f"base: recall is {MOST_OF_BASE:g} % or less", *base, judged_at_most(base, MOST_OF_BASE))]
        against = [("LongRecipe", "FLT", -WITHIN), ("LongRecipe", "RPES", 0.0), ("LongRecipe", "PoSE", 0.0)]
        skill = [compared(frame, against, column) for column in ("NIAH(M)", "RULER-like")]
        took = []
        for column in ("stage 1 seconds", "analysis and stage 1 seconds"):
            triple = share(frame, "LongRecipe", "FLT", column)
            claim = f"{column}: LongRecipe's are {MOST_SECONDS:g} % of FLT's or less"
            took.append((claim, *triple, judged_at_most(triple, MOST_SECONDS)))
        if target in steps:
            claim = f"seconds of a step, benchmark: LongRecipe's are {MOST_SECONDS:g} % of FLT's or less"
            alone = (steps[target],) * 3
            took.append((claim, alone[0], float("nan"), float("nan"), judged_at_most(alone, MOST_SECONDS)))
        tables.append(
            pd.concat([_table(first), *skill, _table(took)]).rename(index=lambda c, T=target: f"T = {T}: {c}")
        )
    return pd.concat(tables)


def of_stages(final: pd.DataFrame) -> pd.DataFrame:
    """Table 3's claim, as this kit puts it: what is merged keeps 97 % of every general score of the base."""
    rows = []
    for name, frame in final[final["stage"] == "merged"].groupby("name", sort=False):
        for column in GENERAL:
            triple = seed_interval(frame[column].tolist())
            claim = f"{name}: {column} is {LEAST_KEPT:g} % or more"
            rows.append((claim, *triple, judged(triple, LEAST_KEPT)))
    return _table(rows)


def of_parts(final: pd.DataFrame) -> pd.DataFrame:
    """Table 2's claims: the whole recipe against what lacks a part of it; then each part by itself."""
    full, first = "LongRecipe", "LongRecipe, first tokens"
    plain = f"{NAMES['longrecipe:max_gap=0']}, first tokens"
    whole = [(full, other, 0.0) for other in ("PoSE", first, "LongRecipe, random sentences", "contiguous", plain)]
    control = "RoPE rule alone"
    alone = [(first, plain, 0.0), ("contiguous", plain, 0.0), ("contiguous", control, 0.0), (plain, control, 0.0)]
    return compared(final, [*whole, *alone])


def of_ratios(final: pd.DataFrame) -> pd.DataFrame:
    """Figure 2's claims: LongRecipe at every ratio against FLT (less 2 points), and against the same tokens at
    contiguous positions; and that 30 % does not lose to 40 %."""
    named = final.assign(name=_at(final))
    ratios = sorted(final.loc[final["name"] == "LongRecipe", "ratio"].unique())
    near = [(f"LongRecipe at {ratio:.0%}", "FLT", -WITHIN) for ratio in ratios]
    beyond = [(f"LongRecipe at {ratio:.0%}", f"contiguous at {ratio:.0%}", 0.0) for ratio in ratios]
    order = [("LongRecipe at 30%", "LongRecipe at 40%", 0.0)] if {0.3, 0.4} <= set(ratios) else []
    return compared(named, [*near, *beyond, *order])


def smallest_ratio(final: pd.DataFrame) -> float | None:
    """The smallest ratio at which LongRecipe's NIAH(M) is FLT's less 2 points or more; None where none holds."""
    named = final.assign(name=_at(final))
    for ratio in sorted(final.loc[final["name"] == "LongRecipe", "ratio"].unique()):
        triple = difference(named, f"LongRecipe at {ratio:.0%}", "FLT", "NIAH(M)")
        if judged(triple, -WITHIN) == "holds":
            return ratio
    return None


def of_merges(rows: pd.DataFrame) -> pd.DataFrame:
    """What replay's and merging's alternatives bring LongRecipe, long and short: NIAH(M), and perplexity kept.

    rows: `tables.front_scores`, those of the usual replay first. By rule at weight 0.5, by replay at weight 0, and
    merging at 0.25 against the replayed model.
    """
    rows = rows[rows["name"] == "LongRecipe"]
    usual, *others = dict.fromkeys(rows["replay"])
    merged = rows[rows["replay"] == usual]
    merged = merged.assign(name=[f"{row.rule} at {row.weight:g}" for row in merged.itertuples()])
    # Not merged, all rules are one.
    alone = rows[(rows["weight"] == 0) & (rows["rule"] == "spare_qk")]
    alone = alone.assign(name=alone["replay"])
    by_rule = [("spare_qk at 0.5", "uniform at 0.5", 0.0), ("spare_qk at 0.25", "spare_qk at 0", 0.0)]
    by_replay = [(usual, other, 0.0) for other in others]
    tables = []
    for column in ("NIAH(M)", "perplexity kept"):
        tables += [compared(merged, by_rule, column), compared(alone, by_replay, column)]
    return pd.concat(tables)


def _at(final: pd.DataFrame) -> list[str]:
    return [
        name if name in ("FLT", "base", "RoPE rule alone") else f"{name} at {ratio:.0%}"
        for name, ratio in zip(final["name"], final["ratio"], strict=True)
    ]


def _table(rows: Iterable[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["claim", "mean", "low", "high", "verdict"]).set_index("claim")
