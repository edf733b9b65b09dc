"""Loss weights of a run's samples, and what they need: the anchors, or the models H and H' of the token analysis."""

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from longrecipe import tokens
from longrecipe.data import weights
from longrecipe.data.samples import WEIGHTS
from longrecipe.recipe.draws import AnchorMask
from longrecipe.settings import Params
from longrecipe.system.files import read_json, write_text

# Samples that are scored together; `tokens.in_batches` reads fewer at a time if they are long.
_TOGETHER = 16
_SECONDS = "-weights-seconds.json"


def needs_models(p: Params) -> bool:
    """Whether the loss weights of a run are computed from scores of H or H'."""
    return p.loss_weight in weights.SCHEMES and weights.SCHEMES[p.loss_weight].passes > 0


def context_of(p: Params) -> int:
    """K, the short context of longce and helm in tokens: loss_context, or the usual one, at most half of a sample."""
    return min(p.loss_context or tokens.short_context(p.window), p.train_length // 2)


def weights_seconds(folder: Path) -> float:
    """How long the loss weights of the samples of a stage took, from its folder; 0 without any."""
    return sum(read_json(path, "delete it") for path in sorted(folder.glob(f"*{_SECONDS}")))


def weighted(
    p: Params,
    rows: Iterable[dict],
    *,
    anchors: AnchorMask | None,
    models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]],
    folder: Path,
) -> Iterator[dict]:
    """Stage-1 samples with loss_weights, a weight for each token; that of the first, which has no loss, is 0.

    Args:
        rows: all of one length.
        anchors: which tokens are anchors, for `anchor`.
        models: loads H and H', for schemes that need them; H' reads no more than its window at a time.
        folder: of the stage; how long the weights took is written there, see `weights_seconds`.
    """
    start = time.perf_counter()
    score, rows = _scorer(p, anchors, models), iter(rows)
    seconds = time.perf_counter() - start
    while some := list(itertools.islice(rows, _TOGETHER)):
        start = time.perf_counter()
        found = score(np.stack([np.asarray(row["input_ids"], dtype=np.int64) for row in some]))
        seconds += time.perf_counter() - start
        for row, each in zip(some, found, strict=True):
            yield row | {WEIGHTS: np.concatenate([[0], each]).astype(np.float32)}
    write_text(folder / f"{p.loss_weight}{_SECONDS}", json.dumps(seconds))


def _scorer(
    p: Params, anchors: AnchorMask | None, models: Callable[[], tuple[PreTrainedModel, PreTrainedModel]]
) -> Callable[[np.ndarray], np.ndarray]:
    """From samples, ids [B, n], to the weights of their tokens 1..n-1, [B, n - 1]."""
    strength = p.weight_strength
    if p.loss_weight == "anchor":
        return lambda ids: weights.anchor_weights(np.stack([anchors(each) for each in ids])[:, 1:], strength)
    base, longer = models()
    if p.loss_weight == "shift":
        read = [
            _by_window(functools.partial(tokens.next_token_scores, network, score=p.analysis_score), p.probe_window)
            for network in (base, longer)
        ]
        return lambda ids: weights.shift_weights(read[1](ids) - read[0](ids), strength)
    context = context_of(p)
    of_long = _by_window(functools.partial(tokens.token_losses, longer), p.probe_window)
    of_short = functools.partial(tokens.short_context_losses, longer, context=context)
    if p.loss_weight == "helm":
        return lambda ids: weights.helm_weights(of_long(ids), of_short(ids), strength)
    return lambda ids: weights.longce_weights(of_long(ids), of_short(ids), strength, context=context)


def _by_window(read: Callable[[np.ndarray], np.ndarray], window: int) -> Callable[[np.ndarray], np.ndarray]:
    def by_window(ids: np.ndarray) -> np.ndarray:
        return tokens.in_windows(functools.partial(tokens.in_batches, read), ids, window // 2 * 2)

    return by_window
