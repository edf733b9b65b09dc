"""Scores of suites from the rows of their prompts: means with 95 % intervals, and differences between models."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from longrecipe import stats
from longrecipe.bench.suites import SUITES

# A row for each prompt and filter of an answer.
COLUMNS = ["suite", "task", "length", "filter", "prompt", "score", "tokens", "cut"]
_PAIRED = ["suite", "task", "length", "filter", "prompt"]
_BY_SUITE = ["suite", "length", "filter"]


def by_task(rows: pd.DataFrame) -> pd.DataFrame:
    """The score of each task and length in percent: mean, low, high, prompts, tokens (mean) and cut (prompts that were
    cut, because the model's window is too short)."""
    return _scored(rows, ["suite", "task", "length", "filter"])


def by_suite(rows: pd.DataFrame) -> pd.DataFrame:
    """The score of each suite and length in percent: the mean of its tasks, for MMLU of its questions.

    niah_m is added if all its tasks are among those of ruler. Columns as for `by_task`.
    """
    return _scored(with_niah(rows), _BY_SUITE)


def differences(rows: pd.DataFrame, base: pd.DataFrame) -> pd.DataFrame:
    """What a model scores above another one, in points by suite and length, with intervals that are paired by prompt.

    Raises ValueError if the models were not asked the same prompts.
    """
    rows, base = with_niah(rows), with_niah(base)
    both = rows.merge(base, on=_PAIRED, suffixes=("", " base"), validate="one_to_one")
    if len(both) < len(base):
        raise ValueError(f"{len(base) - len(both)} prompts of the base were not asked: give equal options.")
    return _scored(both.assign(score=both["score"] - both["score base"]), _BY_SUITE, binary=False)


def with_niah(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, and those of niah_m if they are only there as a part of ruler."""
    tasks = SUITES["niah_m"].tasks
    part = rows[(rows["suite"] == "ruler") & rows["task"].isin(tasks)]
    if "niah_m" in set(rows["suite"]) or set(part["task"]) != set(tasks):
        return rows
    return pd.concat([part.assign(suite="niah_m"), rows], ignore_index=True)


def _scored(rows: pd.DataFrame, keys: list[str], *, binary: bool = True) -> pd.DataFrame:
    """One number for each group of rows, the first key of which is the suite."""
    found = {key: _described(each, key[0], binary=binary) for key, each in rows.groupby(keys, sort=False)}
    return pd.DataFrame.from_dict(found, orient="index").rename_axis(keys).reset_index()


def _described(rows: pd.DataFrame, suite: str, *, binary: bool) -> dict[str, float]:
    groups = [rows] if suite == "mmlu" else [each for _, each in rows.groupby("task", sort=False)]
    triple = _interval([each["score"].to_numpy(float) for each in groups], binary=binary)
    mean, low, high = (100 * value for value in triple)
    counts = {"prompts": len(rows), "tokens": rows["tokens"].mean(), "cut": int(rows["cut"].sum())}
    return {"mean": mean, "low": low, "high": high} | counts


def _interval(parts: Sequence[np.ndarray], *, binary: bool) -> stats.Triple:
    """The mean of the means of tasks and its 95 % interval: a bootstrap in which each task draws its own prompts; for
    answers that are right or wrong Wilson's, if there is one task, or if all are right or all wrong, when a bootstrap
    has no width.

    binary: whether values are scores; else they are differences. If all of these are equal, the interval is as wide as
    Wilson's of no other value among as many.
    """
    values = np.concatenate(parts)
    same = (values == values[0]).all()
    if binary and np.isin(values, (0, 1)).all() and (len(parts) == 1 or same):
        return stats.wilson(int(values.sum()), len(values))
    if not binary and same:
        mean, width = float(values[0]), stats.wilson(0, len(values))[2]
        return mean, max(-1.0, mean - width), min(1.0, mean + width)
    rng = np.random.default_rng(0)
    low, high = stats.percentile_interval(np.mean([stats.bootstrap_means(each, rng) for each in parts], axis=0))
    return float(np.mean([each.mean() for each in parts])), float(low), float(high)
