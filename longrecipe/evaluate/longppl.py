"""LongPPL: perplexity of the tokens that benefit from long context (Fang et al. 2024, arXiv 2410.23771).

Most tokens of a long text can be predicted from the few hundred before them, so ordinary perplexity hardly shows
whether a model uses the rest. LongPPL counts only tokens that one model, the evaluator, predicts much better with the
whole text than with a short context. All models are measured on these tokens.
"""

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from longrecipe import stats
from longrecipe.evaluate.reader import BATCH_TOKENS
from longrecipe.tokens.scores import check_plain_logits, next_token_scores


@dataclass(frozen=True)
class LongPerplexity:
    """LongPPL of a model with its 95 % bootstrap interval over documents, and perplexity of all tokens of these
    documents. n_tokens: the number of chosen tokens; share: of all tokens that have a loss, 0..1.

    Without any chosen token, LongPPL is NaN; with fewer than 2 documents, its interval is.
    """

    longppl: stats.Triple
    perplexity: float
    n_tokens: int
    share: float


def token_losses(network: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    r"""The loss $-\log p(x_t | x_{<t})$ of every token after the first, in nats.

    The logits of only a block of tokens are in memory at a time (see `tokens.next_token_scores`).

    Args: ids int64 [B, L], texts of one length. Returns float32 [B, L - 1], for t = 1..L-1. Raises ValueError for a
    model that scales or caps its logits.
    """
    check_plain_logits(network, "the model")
    size = max(1, BATCH_TOKENS // ids.shape[1])
    parts = [next_token_scores(network, ids[i : i + size], "logprob") for i in range(0, len(ids), size)]
    return -np.concatenate(parts)


def short_context_losses(network: PreTrainedModel, ids: np.ndarray, context: int) -> np.ndarray:
    r"""The loss of every token if only the K = `context` to 2 K - 1 tokens before it are read (fewer at the start).

    Windows of 2 K tokens start at every K-th token, at positions 0, 1, ..., and the second half of each is scored. So
    L tokens cost a forward pass of 2 (L - K) tokens, if K divides L. The paper's K is 4,096.

    Args: ids int64 [B, L], L at least 2 K. Returns float32 [B, L - 1], for t = 1..L-1. Raises ValueError for shorter
    texts.
    Example: with K = 2, the tokens 0..7 are read as 0123, 2345 and 4567; these score the tokens 1 to 3, 4 to 5, 6 to 7.
    """
    n_texts, length = ids.shape
    size = 2 * context
    if context < 1 or length < size:
        raise ValueError(f"context = {context}: must be 1 to {length // 2}, half of a text of {length} tokens.")
    starts = [*range(0, length - size, context), length - size]
    windows = np.stack([ids[:, start : start + size] for start in starts], axis=1)
    found = token_losses(network, windows.reshape(-1, size)).reshape(n_texts, len(starts), size - 1)
    parts, done = [], 0
    for i, start in enumerate(starts):
        parts.append(found[:, i, done - start :])
        done = start + size - 1
    return np.concatenate(parts, axis=1)


def key_tokens(full: np.ndarray, short: np.ndarray, *, least_gain: float = 2.0, most_loss: float = 2.0) -> np.ndarray:
    r"""Choose the tokens with $\ell_{short} - \ell_{full} > 2$ and $\ell_{full} < 2$ (the paper's limits, in nats).

    Args: full, short: losses of the evaluator with the whole text and with a short context, of equal shape. Returns
    bool of this shape. Raises ValueError for different shapes.
    """
    _check_shapes(full, short)
    return (short - full > least_gain) & (full < most_loss)


def long_perplexity(losses: np.ndarray, chosen: np.ndarray, *, seed: int = 0) -> LongPerplexity:
    r"""LongPPL of a model, $\exp(\frac{1}{|C|} \sum_{t \in C} \ell_t)$ over the chosen tokens C, and its perplexity.

    Args: losses float [D, n] of D documents; chosen bool [D, n], from `key_tokens` of the evaluator's losses; seed: of
    the bootstrap. Raises ValueError for different shapes.
    """
    _check_shapes(losses, chosen)
    sums, counts = (losses * chosen).sum(axis=1, dtype=np.float64), chosen.sum(axis=1)
    n_tokens = int(counts.sum())
    if n_tokens == 0:
        triple = (np.nan, np.nan, np.nan)
    else:
        drawn = stats.bootstrap_weights(len(losses), 2000, np.random.default_rng(seed))
        with np.errstate(divide="ignore", invalid="ignore"):
            means = (drawn @ sums) / (drawn @ counts)
        low, high = stats.percentile_interval(means) if len(losses) > 1 else (np.nan, np.nan)
        triple = tuple(float(np.exp(value)) for value in (sums.sum() / n_tokens, low, high))
    perplexity = float(np.exp(losses.mean(dtype=np.float64)))
    return LongPerplexity(triple, perplexity, n_tokens, n_tokens / chosen.size)


def _check_shapes(one: np.ndarray, other: np.ndarray) -> None:
    if one.shape != other.shape:
        raise ValueError(f"losses of other tokens: shapes {one.shape} and {other.shape} must be equal.")
