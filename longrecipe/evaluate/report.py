"""All measures of one model after one stage, and their plain numbers."""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from longrecipe.evaluate.perplexity import copying, perplexity
from longrecipe.evaluate.scoring import ask, cell
from longrecipe.evaluate.tasks import NIAH_M, TASKS, Task, fact_counts
from longrecipe.evaluate.tasks import others as allowed_others
from longrecipe.evaluate.wording import Wording

# Tokens whose perplexity is measured at most: more would take longer, and change the mean by little.
PERPLEXITY_TOKENS = 1 << 18


@dataclass(frozen=True)
class Report:
    """What a model can do: one row for each prompt of the long-context tasks, and general scores.

    prompts: task, length, document, depth, score. general: perplexity, copying, and first_copy, which copying is
    compared with, at the shortest length.
    """

    prompts: pd.DataFrame
    general: dict[str, float]

    @property
    def recall(self) -> pd.DataFrame:
        """The prompts of multi-key needles: recall of one of several facts."""
        return self.prompts.query("task == 'multi-key'")

    def recall_at(self, length: int) -> float:
        """Mean recall at a length, 0..1."""
        return float(self.recall.query("length == @length")["score"].mean())

    def numbers(self) -> dict:
        """The report as plain numbers, with 95 % intervals: recall, NIAH(M), every task by length; general scores."""
        rng, tasks = np.random.default_rng(0), {}
        by_length = {int(n): rows for n, rows in self.prompts.groupby("length")}
        for n, rows in by_length.items():
            tasks[n] = {task: cell(each, rng) for task, each in rows.groupby("task")}
        return {
            "recall": {n: each["multi-key"] for n, each in tasks.items()},
            "niah_m": {n: cell(rows[rows["task"].isin(NIAH_M)], rng) for n, rows in by_length.items()},
            "tasks": tasks,
            **self.general,
        }


def paired(one: Report, other: Report) -> pd.DataFrame:
    """The prompts that both models were asked, as `Report.prompts`; the score is the first's minus the second's."""
    frames = [
        each.prompts.assign(nth=each.prompts.groupby(["task", "length", "document"]).cumcount())
        for each in (one, other)
    ]
    both = frames[0].merge(frames[1].drop(columns="depth"), on=["task", "length", "document", "nth"])
    return both.assign(score=both["score_x"] - both["score_y"])[one.prompts.columns.tolist()]


def report(
    network: PreTrainedModel,
    source: np.ndarray,
    wording: Wording,
    *,
    lengths: Sequence[int],
    n_documents: int,
    n_facts: int,
    seed: int,
    others: Collection[str] = (),
    share: float = 1.0,
    n_passkeys: int = 0,
    longest: int | None = None,
    haystack: np.ndarray | None = None,
) -> Report:
    """Measure a model: NIAH(M) at every length, perplexity and copying at the shortest (the base window or less).

    All models that are measured with one seed read the same documents, so differences between them are paired, see
    `paired`. Perplexity is that of the first PERPLEXITY_TOKENS of the source.

    Args: source int64 ids of held-out text; lengths in tokens; n_documents at the longest length, each with n_facts
    facts that are asked one by one: twice as many at the shortest, which judges retention and costs little, half as
    many between. others: further tasks of `tasks.OTHERS`, at the shortest and the longest length. share: of the
    documents beyond the shortest length, the first of those that a whole measurement reads. n_passkeys: documents of
    the task passkey at any share, half as many up to half of the longest length. longest: lengths above it are not
    measured, and do not change how many documents the others have; None measures all. haystack: ids to hide the facts
    of NIAH(M) in; None takes source.
    Raises ValueError for a task that is unknown or impossible in this wording (association for mini models), and if the
    facts do not fit into a length.
    """
    allowed = allowed_others(wording)
    if unknown := set(others) - set(allowed):
        raise ValueError(f"others = {sorted(unknown)}: allowed in the wording {wording.kind} are {', '.join(allowed)}.")
    counts = _counts(lengths, n_documents, share=share)
    plan = _plan(counts, others, n_passkeys)
    was_training = network.training
    network.eval()
    frames, text = [], wording.haystack(source)
    for task in sorted(plan, key=lambda task: task.stream):
        make = functools.partial(task.make, **fact_counts(wording, n_facts)) if task.niah_m else task.make
        around = haystack if task.niah_m and haystack is not None else text
        for n, count in plan[task].items():
            if longest and n > longest:
                continue
            rng = np.random.default_rng([seed, n, task.stream])
            frames.append(ask(network, wording, make, source=around, length=n, n_documents=count, rng=rng))
    window = min(lengths)
    rng = np.random.default_rng([seed, 0])
    second, first = copying(network, source, window, n_documents=2 * n_documents, rng=rng)
    some = source[: max(PERPLEXITY_TOKENS, window)]
    general = {"perplexity": perplexity(network, some, window), "copying": second, "first_copy": first}
    network.train(was_training)
    return Report(pd.concat(frames, ignore_index=True), general)


def _counts(lengths: Sequence[int], n_documents: int, *, share: float) -> dict[int, int]:
    """Documents of NIAH(M) by rising length."""
    some = max(2, round(share * n_documents))
    middle = dict.fromkeys(sorted(lengths), -(-some // 2))
    return middle | {max(lengths): some} | {min(lengths): 2 * n_documents}


def _plan(counts: dict[int, int], others: Collection[str], n_passkeys: int) -> dict[Task, dict[int, int]]:
    """The number of documents of each task by rising length."""
    window, target = min(counts), max(counts)
    passkeys = {n: n_passkeys if 2 * n > target else -(-n_passkeys // 2) for n in counts}
    plan = {}
    for name, task in TASKS.items():
        if task.asked == "always":
            plan[task] = counts
        elif task.asked == "passkeys" and n_passkeys:
            plan[task] = passkeys
        elif name in others:
            plan[task] = {n: counts[n] for n in (window, target)}
    return plan
