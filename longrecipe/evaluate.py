"""Measures: recall of planted facts by length and depth, NIAH(M), perplexity; intervals by bootstrap over documents.

A haystack is read once; each question about it is then asked on a copy of the same key-value cache, so that a prompt
(haystack and one question) costs a forward pass of a few tokens. Skipped positions play no part here: evaluation reads
whole texts at positions 0, 1, 2, ...
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from transformers import DynamicCache, PreTrainedModel

from longrecipe.facts import FactFormat, Haystack, draw_pairs, haystack

# Tokens that one batch of haystacks may hold; bounds memory whatever the length.
BATCH_TOKENS = 16_384
N_VALUES = 4


class Reader:
    """Haystacks of one length, read once by a model and kept as a key-value cache, to be asked again and again."""

    def __init__(self, network: PreTrainedModel, ids: np.ndarray):
        self.network, self.cache = network, DynamicCache(config=network.config)
        self.length = ids.shape[1]
        self._forward(ids)

    def _forward(self, ids: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(ids).to(self.network.device)
        out = self.network(input_ids=x, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].float()

    def _forget(self) -> None:
        self.cache.crop(self.length - self.cache.get_seq_length())

    def ask(self, questions: np.ndarray) -> torch.Tensor:
        """Logits [B, vocabulary] of the token after each haystack and its question, ids [B, q]; then forget it."""
        logits = self._forward(questions)
        self._forget()
        return logits

    def converse(self, turns: list[np.ndarray], stop: np.ndarray) -> np.ndarray:
        """Ask several questions one after the other, each answer (greedy, one token) staying in the context.

        Args: turns: Q arrays of ids [B, q]; stop: ids that close an answer. Returns answers [B, Q]; then forgets all.
        """
        answers = []
        for turn in turns:
            if answers:
                closed = np.tile(stop, (len(turn), 1))
                turn = np.concatenate([answers[-1][:, None], closed, turn], axis=1)
            answers.append(self._forward(turn).argmax(-1).cpu().numpy())
        self._forget()
        return np.stack(answers, axis=1)


def _batches(make: Callable[[], Haystack], n_documents: int, length: int) -> Iterator[list[Haystack]]:
    size = max(1, BATCH_TOKENS // length)
    for start in range(0, n_documents, size):
        yield [make() for _ in range(min(size, n_documents - start))]


@torch.inference_mode()
def recall(
    network: PreTrainedModel,
    source: np.ndarray,
    facts: FactFormat,
    length: int,
    n_documents: int,
    n_facts: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Recall of one of n_facts facts hidden in text of a length: every fact of a document is asked for in turn.

    A prompt is a document and one question; the answer counts when it has the largest logit. The same questions are
    then asked in one conversation, greedy answers kept, which makes `length` tokens in all (so that a single prompt is
    8 tokens or so for each other fact shorter). Args: source int64 ids of held-out text; length in tokens. Returns one
    row a prompt: length, document, depth (0 = start of the text, 1 = its end), correct, in_conversation.
    Raises ValueError where the facts do not fit the length.
    """
    tail = n_facts * (len(facts.recall) + 2) + (n_facts - 1) * len(facts.stop)
    rows = []

    def make() -> Haystack:
        return haystack(source, facts, length - tail, draw_pairs(facts, n_facts, rng), rng)

    for hays in _batches(make, n_documents, length):
        reader = Reader(network, np.stack([h.ids for h in hays]))
        first = len(rows) // n_facts
        turns = [np.stack([facts.question(h.pairs[i, 0]) for h in hays]) for i in range(n_facts)]
        truth = np.stack([h.pairs[:, 1] for h in hays])
        alone = np.stack([reader.ask(turn).argmax(-1).cpu().numpy() for turn in turns], axis=1) == truth
        together = reader.converse(turns, facts.stop) == truth
        rows += [
            (length, first + j, hay.depths[i], int(alone[j, i]), int(together[j, i]))
            for j, hay in enumerate(hays)
            for i in range(n_facts)
        ]
    return pd.DataFrame(rows, columns=["length", "document", "depth", "correct", "in_conversation"])


@torch.inference_mode()
def multi_value(
    network: PreTrainedModel,
    source: np.ndarray,
    facts: FactFormat,
    length: int,
    n_documents: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """One key noted with 4 values at 4 places: the share of them among the 4 largest logits when the key is asked for.

    Returns one row a document: length, document, score in 0..1. Raises ValueError where the facts do not fit.
    """
    rows = []

    def make() -> Haystack:
        pairs = draw_pairs(facts, 1, rng, values_of_first=N_VALUES)
        return haystack(source, facts, length - len(facts.recall) - 2, pairs, rng)

    for hays in _batches(make, n_documents, length):
        reader = Reader(network, np.stack([h.ids for h in hays]))
        logits = reader.ask(np.stack([facts.question(h.pairs[0, 0]) for h in hays]))
        top = logits.topk(N_VALUES).indices.cpu().numpy()
        first = len(rows)
        rows += [(length, first + j, np.isin(h.pairs[:, 1], top[j]).mean()) for j, h in enumerate(hays)]
    return pd.DataFrame(rows, columns=["length", "document", "score"])


def niah_rows(recalled: pd.DataFrame, valued: pd.DataFrame) -> pd.DataFrame:
    """RULER's multi-key, multi-query and multi-value needles in planted-fact form, whose mean is NIAH(M).

    multi-key: one of several keys, asked by itself; multi-query: all keys asked in one conversation; multi-value: all
    values of one key. Args: the frames of `recall` and `multi_value`. Returns one row a document and task: length,
    document, task, score in 0..1.
    """
    by_document = recalled.groupby(["length", "document"])[["correct", "in_conversation"]].mean().reset_index()
    columns = {"correct": "multi-key", "in_conversation": "multi-query"}
    single = by_document.rename(columns=columns).melt(["length", "document"], var_name="task", value_name="score")
    return pd.concat([single, valued.assign(task="multi-value")], ignore_index=True)[
        ["length", "document", "task", "score"]
    ]


@torch.inference_mode()
def perplexity(network: PreTrainedModel, ids: np.ndarray, length: int) -> float:
    """Perplexity $\\exp(-\\frac{1}{M}\\sum \\log p(x_t | x_{<t}))$ over all whole windows of `length` tokens of ids.

    Args: ids int64 [M] held-out text. Raises ValueError where ids holds no whole window.
    """
    windows = len(ids) // length
    if not windows:
        raise ValueError(f"perplexity at {length} tokens needs a text at least that long, it has {len(ids)}.")
    x = torch.from_numpy(ids[: windows * length].reshape(windows, length)).to(network.device)
    total = 0.0
    for batch in x.split(max(1, BATCH_TOKENS // length)):
        logits = network(input_ids=batch, use_cache=False).logits[:, :-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (windows * (length - 1)))


def interval(
    frame: pd.DataFrame, column: str, rng: np.random.Generator, level: float = 0.95, draws: int = 2000
) -> tuple[float, float, float]:
    """Mean of a column and its percentile bootstrap interval, drawn over documents, not prompts.

    Prompts of one document share its text, so they are no independent draws; documents are. Where the frame has a
    column task, the mean is that of the tasks' means, and documents are drawn within each task.
    Returns mean, low, high.
    """
    tasks = [rows for _, rows in frame.groupby("task")] if "task" in frame else [frame]
    scores = [rows.groupby("document")[column].mean().to_numpy() for rows in tasks]
    means = np.mean([s[rng.integers(0, len(s), size=(draws, len(s)))].mean(axis=1) for s in scores], axis=0)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(np.mean([s.mean() for s in scores])), float(low), float(high)


@dataclass(frozen=True)
class Report:
    """What a model can do after one stage: the raw rows of each measure, and perplexity at the base window."""

    recall: pd.DataFrame
    niah: pd.DataFrame
    perplexity: float

    def recall_at(self, length: int) -> float:
        """Mean recall at a length, 0..1."""
        return float(self.recall.query("length == @length")["correct"].mean())

    def numbers(self) -> dict:
        """The report as plain numbers: recall by length with its 95 % interval, NIAH(M) and its tasks, perplexity."""
        rng = np.random.default_rng(0)
        by_length = {
            int(n): dict(zip(("mean", "low", "high"), interval(f, "correct", rng), strict=True)) | {"prompts": len(f)}
            for n, f in self.recall.groupby("length")
        }
        niah = {}
        for n, f in self.niah.groupby("length"):
            mean, low, high = interval(f, "score", rng)
            tasks = {task: float(g["score"].mean()) for task, g in f.groupby("task")}
            niah[int(n)] = {"mean": mean, "low": low, "high": high, **tasks}
        return {"recall": by_length, "niah_m": niah, "perplexity": self.perplexity}


def report(
    network: PreTrainedModel,
    source: np.ndarray,
    facts: FactFormat,
    lengths: list[int],
    n_documents: int,
    n_facts: int,
    seed: int,
) -> Report:
    """Measure a model at every length: recall, NIAH(M) at the longest and the shortest, perplexity at the shortest.

    Every model measured with one seed reads the same documents, so that differences between stages are paired. The
    longest length gets n_documents; the base window, where retention is judged, four times as many, since it costs next
    to nothing; the lengths between, half. multi-value needles take a sixth of a length's documents.
    """
    was_training = network.training
    network.eval()
    window, target = min(lengths), max(lengths)
    count = dict.fromkeys(lengths, -(-n_documents // 2)) | {target: n_documents, window: 4 * n_documents}
    rows = {
        n: recall(network, source, facts, n, count[n], n_facts, np.random.default_rng([seed, n]))
        for n in sorted(lengths)
    }
    niah = [
        niah_rows(
            rows[n], multi_value(network, source, facts, n, -(-count[n] // 6), np.random.default_rng([seed, n, 1]))
        )
        for n in (window, target)
    ]
    short = perplexity(network, source, window)
    network.train(was_training)
    return Report(pd.concat(rows.values(), ignore_index=True), pd.concat(niah, ignore_index=True), short)
