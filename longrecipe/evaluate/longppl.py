"""LongPPL: perplexity of the tokens that benefit from long context (Fang et al. 2024, arXiv 2410.23771).

Most tokens of a long text can be predicted from the few hundred before them, so ordinary perplexity hardly shows
whether a model uses the rest. LongPPL counts only tokens that one model, the evaluator, predicts much better with the
whole text than with a short context. All models are measured on these tokens. `tokens.context` computes the losses.
"""

from dataclasses import dataclass

import numpy as np

from longrecipe import stats


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
