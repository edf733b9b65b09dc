"""Rows of the tables of results, from what was measured."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from longrecipe.evaluate import Report
from longrecipe.results.run import TABLES, Run, typed
from longrecipe.tokens import Analysis, binned

# The mean of several tasks is a task of its own. The general scores are measured at the shortest length.
NIAH_M = "NIAH(M)"
GENERAL = ("perplexity", "copying", "first_copy")


def score_rows(numbers: Mapping[str, Mapping]) -> pd.DataFrame:
    """The table `scores` from `Report.numbers()` of each stage: a row per stage, length and task."""
    return _score_table((stage, None, None, measured) for stage, measured in numbers.items())


def merge_rows(merges: Iterable[tuple[str, float, Mapping]]) -> pd.DataFrame:
    """The table `scores` from the rule, the weight and `Report.numbers()` of each merge."""
    return _score_table(("merged", rule, weight, measured) for rule, weight, measured in merges)


def _score_table(models: Iterable[tuple[str, str | None, float | None, Mapping]]) -> pd.DataFrame:
    rows = []
    for stage, rule, weight, measured in models:
        about = {"stage": stage, "rule": rule, "weight": weight}
        for length, tasks in measured["tasks"].items():
            for task, cell in (tasks | {NIAH_M: measured["niah_m"][length]}).items():
                rows.append(about | {"length": length, "task": task} | cell)
        shortest = min(measured["tasks"], default=0)
        rows += [about | {"length": shortest, "task": task, "mean": measured[task]} for task in GENERAL]
    return typed(pd.DataFrame(rows, columns=list(TABLES["scores"])), "scores")


def depth_rows(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The table `depths` from the report of each stage: mean score and prompts by task, length and fifth of depth."""
    frames = []
    for stage, report in reports.items():
        rows = report.prompts.dropna(subset="depth")
        fifth = np.minimum(rows["depth"] * 5, 4).astype(int)
        means = rows.groupby(["task", "length", fifth])["score"].agg(["mean", "count"]).reset_index()
        frames.append(means.assign(stage=stage))
    return pd.concat(frames, ignore_index=True)


def document_rows(reports: Mapping[str, Report]) -> pd.DataFrame:
    """The table `documents` from the report of each stage: mean score and prompts by task, length and document."""
    by = ["task", "length", "document"]
    frames = [each.prompts.groupby(by)["score"].agg(["mean", "count"]).reset_index() for each in reports.values()]
    return pd.concat([frame.assign(stage=stage) for stage, frame in zip(reports, frames, strict=True)])


def loss_rows(losses: pd.DataFrame) -> pd.DataFrame:
    """The table `losses` from `evaluate.losses_by_document`, by the stage of each model."""
    return losses.rename(columns={"model": "stage"})


def analysis_rows(found: Mapping[tuple[str, str], Analysis], n_tokens: int) -> dict[str, pd.DataFrame]:
    """The tables `rankings`, `stability` and `shares` of token analyses.

    found: by kind of types (class or pos) and positions (all, or those beyond the base's window); n_tokens: scored.
    """
    rankings = [each.ranking.assign(by=by, positions=positions) for (by, positions), each in found.items()]
    stability = [(by, positions, each.stability, n_tokens) for (by, positions), each in found.items()]
    shares = [
        binned(each.by_position).reset_index().melt("position", var_name="type", value_name="share").assign(by=by)
        for (by, positions), each in found.items()
        if positions == "all"
    ]
    return {
        "rankings": pd.concat(rankings, ignore_index=True),
        "stability": pd.DataFrame(stability, columns=list(TABLES["stability"])),
        "shares": pd.concat(shares, ignore_index=True),
    }


def joined(runs: Iterable[Run], table: str) -> pd.DataFrame:
    """A table of several runs: the model and seed of each run, then its rows."""
    frames = [run.table(table).assign(model=run.params.model, seed=run.params.seed) for run in runs]
    if not frames:
        return pd.DataFrame()
    both = pd.concat(frames, ignore_index=True)
    return both[["model", "seed", *both.columns.difference(["model", "seed"], sort=False)]]
