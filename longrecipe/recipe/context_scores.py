"""Scores of samples and documents by H and H': for loss weights, and to choose sentences and documents."""

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from longrecipe import tokens
from longrecipe.data.weights import SCHEMES
from longrecipe.positions import find
from longrecipe.settings import Params
from longrecipe.system.files import read_json, write_text

_FILE = "scores-seconds.json"


def needs_scores(p: Params) -> bool:
    """Whether a run's stage-1 samples need scores of H or H': for their loss weights, sentences or documents."""
    return passes(p) > 0


def passes(p: Params) -> float:
    """Forward passes that the scores take for each token of the stage-1 samples, if those of one read of T tokens count
    as T / n."""
    method, ratio = find(p.method), p.target_length / p.train_length
    if method.positions is None:
        return 0
    weights = SCHEMES[p.loss_weight].passes if p.loss_weight in SCHEMES else 0
    sentences = 2 * ratio if p.selection == "shift" and method.text == "selected" else 0
    # One pass with long context and two with short context.
    documents = 3 * ratio * p.document_candidates if p.document_candidates > 1 else 0
    return weights + sentences + documents


def seconds_of(folder: Path) -> float:
    """How long the scores of a stage's samples took, from its folder; 0 without any."""
    return sum(read_json(path, "delete it") for path in sorted(folder.glob(f"*{_FILE}")))


class ContextScores:
    """Scores of texts by the models of the token analysis, which are loaded when they are first needed.

    H' reads no more than its window at a time (see `tokens.in_windows`), and short contexts are read by H', too.
    """

    def __init__(self, p: Params, load: Callable[[], tuple[PreTrainedModel, PreTrainedModel]]):
        self.p, self.seconds = p, 0.0
        self._load = functools.cache(load)

    @property
    def context(self) -> int:
        """K, the short context in tokens: loss_context, or the usual one, at most half of a sample."""
        return min(self.p.loss_context or tokens.short_context(self.p.window), self.p.train_length // 2)

    def shift(self, ids: np.ndarray) -> np.ndarray:
        """S_H' - S_H of the tokens 1..n-1 of texts [B, n], float32 [B, n - 1] (paper, section 4.1)."""
        start = time.perf_counter()
        base, longer = (
            self._by_window(functools.partial(tokens.next_token_scores, network, score=self.p.analysis_score), ids)
            for network in self._load()
        )
        self.seconds += time.perf_counter() - start
        return longer - base

    def losses(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the tokens 1..n-1 of texts [B, n] with long and with short context, two float32 [B, n - 1]."""
        start = time.perf_counter()
        _, longer = self._load()
        long = self._by_window(functools.partial(tokens.token_losses, longer), ids)
        short = tokens.short_context_losses(longer, ids, self.context)
        self.seconds += time.perf_counter() - start
        return long, short

    def gain(self, ids: np.ndarray) -> float:
        r"""The information that long context brings a document [n], in nats per token (LongFilter: Deng et al. 2025,
        arXiv 2510.25804): the mean of $\ell^{short}_t - \ell^{long}_t$. The authors take it from another, larger model.
        """
        long, short = self.losses(ids[None])
        return float((short - long).mean(dtype=np.float64))

    def save(self, folder: Path, name: str) -> None:
        """Write how long the scores took, for `seconds_of`."""
        write_text(folder / f"{name}-{_FILE}", json.dumps(self.seconds))

    def _by_window(self, read: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> np.ndarray:
        return tokens.in_windows(functools.partial(tokens.in_batches, read), ids, self.p.probe_window // 2 * 2)
