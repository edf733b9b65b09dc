"""Scores of samples and documents by H and H': for loss weights, and to choose sentences and documents."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from longrecipe import evaluate, tokens
from longrecipe.positions import find
from longrecipe.recipe.draws import needs_anchors
from longrecipe.settings import Params
from longrecipe.system.files import read_json, write_text


def needs_scores(p: Params) -> bool:
    """Whether a run's stage-1 samples need scores of H or H': for their loss weights, sentences or documents."""
    return passes(p) > 0


def needs_probe(p: Params) -> bool:
    """Whether a run trains H': for the token analysis, or for scores."""
    return needs_anchors(p) or needs_scores(p)


def passes(p: Params) -> float:
    """Tokens that H and H' read for the scores, for each token of the stage-1 samples."""
    if find(p.method).positions is None:
        return 0.0
    scheme, candidates = p.loss_weight, p.document_candidates if p.document_candidates > 1 else 0
    of_sample = {"shift": 2 * _long(p, p.train_length), "longce": _both(p, p.train_length)}
    read = (of_sample | {"helm": of_sample["longce"]}).get(scheme, 0)
    read += candidates * _both(p, p.target_length)
    read += 2 * _long(p, p.target_length) if by_shift(p) else 0
    return read / p.train_length


def by_shift(p: Params) -> bool:
    """Whether a run selects sentences by the shifts of their tokens."""
    return find(p.method).text == "selected" and p.selection == "shift"


def context_of(p: Params) -> int:
    """K, the short context in tokens: loss_context, or the usual one, at most half of a sample."""
    return p.loss_context or min(tokens.short_context(p.window), p.train_length // 2)


def _long(p: Params, length: int) -> int:
    return tokens.tokens_read(length, p.probe_window // 2 * 2)


def _both(p: Params, length: int) -> int:
    return _long(p, length) + tokens.tokens_read(length, 2 * context_of(p))


def seconds_of(folder: Path) -> float:
    """How long the scores of a stage's samples took, from its folder; 0 without any."""
    return sum(read_json(path, "delete it") for path in sorted(folder.glob("*-scores-seconds.json")))


class ContextScores:
    """Scores of texts by the models of the token analysis, which are loaded when they are first needed.

    H' reads no more than its window at a time (see `tokens.in_windows`), and short contexts are read by H', too.
    load: loads the models by name, `base` (H) and `longer` (H'). Raises ValueError for models that scale or cap their
    logits.
    """

    def __init__(self, p: Params, load: Mapping[str, Callable[[], PreTrainedModel]]):
        self.p, self.context, self.seconds = p, context_of(p), 0.0
        self._load, self._models = load, {}

    def shift(self, ids: np.ndarray) -> np.ndarray:
        """S_H' - S_H of the tokens 1..n-1 of texts [B, n], float32 [B, n - 1] (paper, section 4.1)."""
        start = time.perf_counter()
        base, longer = (
            self._by_window(functools.partial(tokens.in_batches, self._score(name)), ids) for name in ("base", "longer")
        )
        self.seconds += time.perf_counter() - start
        return longer - base

    def losses(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Losses of the tokens 1..n-1 of texts [B, n] with long and with short context, two float32 [B, n - 1]."""
        start = time.perf_counter()
        longer = self._model("longer")
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

    def close(self, path: Path) -> None:
        """Free the models, and write to a file how long the scores took, for `seconds_of`."""
        self._models.clear()
        write_text(path, json.dumps(self.seconds))

    def _model(self, name: str) -> PreTrainedModel:
        if name not in self._models:
            model = evaluate.to_read(self._load[name]())
            tokens.check_plain_logits(model, {"base": "H", "longer": "H'"}[name])
            self._models[name] = model
        return self._models[name]

    def _score(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        return functools.partial(tokens.next_token_scores, self._model(name), score=self.p.analysis_score)

    def _by_window(self, read: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> np.ndarray:
        return tokens.in_windows(read, ids, self.p.probe_window // 2 * 2)
