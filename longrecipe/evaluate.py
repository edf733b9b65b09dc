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
NIAH_TASKS = ("multi-key", "multi-value", "multi-query")
_N_VALUES, _N_ASKED, _N_DISTRACTORS = 4, 4, 4


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

    A prompt is a document and one question, `length` tokens with the answer; the answer counts when it has the largest
    logit. Args: source int64 ids of held-out text; length in tokens. Returns one row a prompt: length, document, depth
    (0 = start of the text, 1 = its end), correct. Raises ValueError where the facts do not fit the length.
    """
    question_tokens = len(facts.recall) + 1
    rows = []

    def make() -> Haystack:
        return haystack(source, facts, length - question_tokens - 1, draw_pairs(facts, n_facts, rng), rng)

    for hays in _batches(make, n_documents, length):
        reader = Reader(network, np.stack([h.ids for h in hays]))
        first = len(rows) // n_facts
        for i in range(n_facts):
            logits = reader.ask(np.stack([facts.question(h.pairs[i, 0]) for h in hays]))
            answers = logits.argmax(-1).cpu().numpy()
            rows += [(length, first + j, h.depths[i], int(answers[j] == h.pairs[i, 1])) for j, h in enumerate(hays)]
    return pd.DataFrame(rows, columns=["length", "document", "depth", "correct"])


@torch.inference_mode()
def niah_multi(
    network: PreTrainedModel,
    source: np.ndarray,
    facts: FactFormat,
    length: int,
    n_documents: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """RULER's multi-key, multi-value and multi-query needles in planted-fact form; NIAH(M) is the mean of the three.

    A document hides 8 keys with one value each and one key with 4 values. multi-key: one of 4 of those keys, asked by
    itself; multi-query: the same 4 asked in one conversation, greedy answers kept; multi-value: share of the 4 values
    among the 4 largest logits after the many-valued key. Returns one row a document and task: length, document, task,
    score in 0..1. Raises ValueError where the facts do not fit the length.
    """
    tail = (len(facts.recall) + 1) * _N_ASKED + (len(facts.stop) + 1) * _N_ASKED
    rows = []

    def make() -> Haystack:
        pairs = draw_pairs(facts, 1 + _N_ASKED + _N_DISTRACTORS, rng, values_of_first=_N_VALUES)
        return haystack(source, facts, length - tail, pairs, rng)

    for hays in _batches(make, n_documents, length):
        reader = Reader(network, np.stack([h.ids for h in hays]))
        truth = np.stack([h.pairs[_N_VALUES : _N_VALUES + _N_ASKED, 1] for h in hays])
        turns = [np.stack([facts.question(h.pairs[_N_VALUES + i, 0]) for h in hays]) for i in range(_N_ASKED)]
        alone = np.stack([reader.ask(turn).argmax(-1).cpu().numpy() for turn in turns], axis=1)
        together = reader.converse(turns, facts.stop)
        many = reader.ask(np.stack([facts.question(h.pairs[0, 0]) for h in hays])).topk(_N_VALUES).indices.cpu().numpy()
        found = [np.isin(h.pairs[:_N_VALUES, 1], many[j]).mean() for j, h in enumerate(hays)]
        first = len(rows) // len(NIAH_TASKS)
        for j in range(len(hays)):
            scores = ((alone == truth)[j].mean(), found[j], (together == truth)[j].mean())
            rows += [(length, first + j, task, float(s)) for task, s in zip(NIAH_TASKS, scores, strict=True)]
    return pd.DataFrame(rows, columns=["length", "document", "task", "score"])


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

    Prompts of one document share its text, so they are no independent draws; documents are. Returns mean, low, high.
    """
    by_document = frame.groupby("document")[column].mean().to_numpy()
    means = by_document[rng.integers(0, len(by_document), size=(draws, len(by_document)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(by_document.mean()), float(low), float(high)


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
            niah[int(n)] = {"mean": mean, "low": low, "high": high, "documents": f["document"].nunique(), **tasks}
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
    shortest length (the base window, where retention is judged) gets four times n_documents: it costs next to nothing.
    """
    was_training = network.training
    network.eval()
    window, target = min(lengths), max(lengths)
    count = {n: n_documents * (4 if n == window else 1) for n in lengths}
    rows = [
        recall(network, source, facts, n, count[n], n_facts, np.random.default_rng([seed, n])) for n in sorted(lengths)
    ]
    niah = [
        niah_multi(network, source, facts, n, count[n] // 2, np.random.default_rng([seed, n, 1]))
        for n in (window, target)
    ]
    short = perplexity(network, source, window)
    network.train(was_training)
    return Report(pd.concat(rows, ignore_index=True), pd.concat(niah, ignore_index=True), short)
