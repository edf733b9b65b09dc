"""Losses of tokens with a long and a short context: the scores of LongPPL, LongCE and Helm's loss weights.

Only plain logits can be scored: see `scores.check_plain_logits`.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
from transformers import PreTrainedModel

from longrecipe.tokens.scores import BATCH_TOKENS, check_plain_logits, next_token_scores

# The short context of LongPPL and LongCE in their paper, in tokens.
MOST_CONTEXT = 4096


def short_context(window: int) -> int:
    """K, the usual short context of a model with a window: half of it, so that a window holds 2 K tokens; at most the
    4,096 tokens of LongPPL's paper."""
    return min(window // 2, MOST_CONTEXT)


def token_losses(network: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    r"""The loss $-\log p(x_t | x_{<t})$ of every token after the first, in nats.

    The logits of only a block of tokens are in memory at a time (see `tokens.next_token_scores`).

    Args: ids int64 [B, L], texts of one length. Returns float32 [B, L - 1], for t = 1..L-1. Raises ValueError for a
    model that scales or caps its logits.
    """
    check_plain_logits(network, "the model")
    return -in_batches(functools.partial(next_token_scores, network, score="logprob"), ids)


def short_context_losses(network: PreTrainedModel, ids: np.ndarray, context: int) -> np.ndarray:
    r"""The loss of every token if only the K = `context` to 2 K - 1 tokens before it are read (fewer at the start).

    L tokens cost a forward pass of 2 (L - K) tokens, if K divides L (see `in_windows`). The paper's K is 4,096.

    Args: ids int64 [B, L], L at least 2 K. Returns float32 [B, L - 1], for t = 1..L-1. Raises ValueError for shorter
    texts.
    Example: with K = 2, the tokens 0..7 are read as 0123, 2345 and 4567; these score the tokens 1 to 3, 4 to 5, 6 to 7.
    """
    length = ids.shape[1]
    if context < 1 or length < 2 * context:
        raise ValueError(f"context = {context}: must be 1 to {length // 2}, half of a text of {length} tokens.")
    return in_windows(functools.partial(token_losses, network), ids, 2 * context)


def in_windows(read: Callable[[np.ndarray], np.ndarray], ids: np.ndarray, size: int) -> np.ndarray:
    """What `read` finds for every token after the first, with no more than `size` tokens read at a time.

    Windows start at every (size / 2)-th token, at positions 0, 1, ..., and the second half of each is used.

    Args: read: from ids [B, n] to a value of the tokens 1..n-1, [B, n - 1]; ids int64 [B, L]; size in tokens, even.
    Returns [B, L - 1].
    """
    n_texts, length = ids.shape
    if length <= size:
        return read(ids)
    starts = [*range(0, length - size, size // 2), length - size]
    windows = np.stack([ids[:, start : start + size] for start in starts], axis=1)
    found = read(windows.reshape(-1, size)).reshape(n_texts, len(starts), size - 1)
    parts, done = [], 0
    for i, start in enumerate(starts):
        parts.append(found[:, i, done - start :])
        done = start + size - 1
    return np.concatenate(parts, axis=1)


def tokens_read(length: int, size: int) -> int:
    """The tokens that `in_windows` reads of a text of some length, with windows of some size."""
    return length if length <= size else (math.ceil((length - size) / (size // 2)) + 1) * size


def in_batches(read: Callable[[np.ndarray], np.ndarray], ids: np.ndarray) -> np.ndarray:
    """`read` of texts [B, L], a few texts at a time: about BATCH_TOKENS tokens."""
    size = max(1, BATCH_TOKENS // ids.shape[1])
    return np.concatenate([read(ids[i : i + size]) for i in range(0, len(ids), size)])
