"""All measures of one model after one stage, and their plain numbers."""

import functools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from longrecipe.evaluate.perplexity import copying, perplexity
from longrecipe.evaluate.scoring import ask, cell
from longrecipe.evaluate.tasks import NIAH_M, OTHERS, needles, passkey
from longrecipe.evaluate.wording import Wording


@dataclass(frozen=True)
class Report:
    """What a model can do: a row a prompt of the long-context tasks, and the general scores at the shortest length.

    prompts: task, length, document, depth, score. general: perplexity, copying and, as copying's yardstick, first copy.
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
    """The prompts that both models were asked, in `Report.prompts`' form: the score is one's minus the other's."""
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
    lengths: list[int],
    n_documents: int,
    n_facts: int,
    seed: int,
    others: Collection[str] = (),
    share: float = 1.0,
    n_passkeys: int = 0,
    haystack: np.ndarray | None = None,
) -> Report:
    """Measure a model: NIAH(M) at every length, perplexity and copying at the shortest, the base window or below it.

    others: further tasks, of `tasks.OTHERS`, to ask at the shortest and the longest length. Every model measured with
    one seed reads the same documents, so that differences between stages are paired (`paired`). The longest length gets
    n_documents, each with n_facts facts asked one by one; the shortest, where retention is judged, twice as many,
    since it costs next to nothing; the lengths between, half. share: of the documents beyond the shortest length, which
    are then the first of those that a whole measurement reads. n_passkeys: documents of the task passkey, whatever the
    share, half as many up to half of the longest length. haystack: ids that the facts of NIAH(M) hide in, None
    takes source. Raises ValueError for an unknown task, and where the facts do not fit a length.
    """
    if unknown := set(others) - set(OTHERS):
        raise ValueError(f"others = {sorted(unknown)}: allowed are {', '.join(OTHERS)}.")
    was_training = network.training
    network.eval()
    window, target = min(lengths), max(lengths)
    some = max(2, round(share * n_documents))
    count = dict.fromkeys(lengths, -(-some // 2)) | {target: some} | {window: 2 * n_documents}
    text, hidden = source if haystack is None else haystack, functools.partial(needles, n_keys=n_facts)
    frames = [
        ask(network, wording, hidden, text, n, count[n], np.random.default_rng([seed, n])) for n in sorted(lengths)
    ]
    # Documents of the further tasks, by length.
    further = {name: {n: count[n] for n in (window, target)} for name in others}
    if n_passkeys:
        further["passkey"] = {n: n_passkeys if 2 * n > target else -(-n_passkeys // 2) for n in lengths}
    for i, (name, make) in enumerate((OTHERS | {"passkey": passkey}).items()):
        frames += [
            ask(network, wording, make, source, n, documents, np.random.default_rng([seed, n, i + 1]))
            for n, documents in sorted(further.get(name, {}).items())
        ]
    second, first = copying(network, source, window, 2 * n_documents, np.random.default_rng([seed, 0]))
    general = {"perplexity": perplexity(network, source, window), "copying": second, "first_copy": first}
    network.train(was_training)
    return Report(pd.concat(frames, ignore_index=True), general)
