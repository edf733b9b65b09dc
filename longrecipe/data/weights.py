r"""Loss weights: how much the loss of each token counts in training, $L = \frac{1}{N} \sum_t w_t \ell_t$.

The paper uses impactful tokens to choose sentences. These schemes put them, or the tokens that need long context, into
the loss. All but LongCE have a mean of 1 over each sample, so that they move weight between tokens and leave the size
of the gradient as it is. Weights are computed once, before training, and stored with the samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scheme:
    """A scheme of loss weights: what its strength is, with its default and its limits, and what must be read for it.

    passes: forward passes over every token of a sample, on average.
    """

    strength: str
    default: float
    least: float
    most: float
    passes: int
    summary: str


SCHEMES: Mapping[str, Scheme] = {
    "anchor": Scheme("c", 9.0, 0.0, 1e4, 0, "1 + c on tokens of the anchor types"),
    "shift": Scheme("the most that is added to 1", 9.0, 0.0, 1e4, 2, "1 + the score's shift from H to H'"),
    "longce": Scheme("the largest weight", 5.0, 1.0, 1e4, 3, "exp(loss with short context - loss with long)"),
    "helm": Scheme("lambda, share of equal weights", 0.75, 0.0, 1.0, 3, "|loss with short context - loss with long|"),
}


def anchor_weights(is_anchor: np.ndarray, strength: float) -> np.ndarray:
    r"""$w_t \propto 1 + c\,a_t$, with a mean of 1; $a_t$ is 1 for tokens of the anchor types and 0 for others.

    Args: is_anchor bool [..., n], of the tokens that are predicted; strength c. Returns float32 [..., n].
    Example: one anchor among four tokens and c = 4 give 2.5 for it and 0.5 for the others.
    """
    return _mean_one(1 + strength * np.asarray(is_anchor, dtype=np.float64))


def shift_weights(shift: np.ndarray, strength: float) -> np.ndarray:
    r"""$w_t \propto 1 + \min(\max(\Delta_t, 0), c)$, with a mean of 1; $\Delta_t = S_{H'}(x_t) - S_H(x_t)$.

    The shift is the paper's measure of an impactful token (section 4.1). Tokens whose score falls keep the weight of
    tokens whose score does not change.

    Args: shift [..., n] of the tokens that are predicted; strength c. Returns float32 [..., n].
    Example: shifts of -2, 0, 1 and 5 with c = 3 give 0.5, 0.5, 1 and 2.
    """
    return _mean_one(1 + np.clip(np.asarray(shift, dtype=np.float64), 0, strength))


def longce_weights(long: np.ndarray, short: np.ndarray, strength: float, *, context: int) -> np.ndarray:
    r"""LongCE: $w_t = \min(e^{s_t - l_t}, \gamma)$ (Fang et al. 2024, arXiv 2410.23771, section 4).

    Tokens among the first K have no shorter context, so their weight is 1. The weights are not divided by their mean.
    The authors score with the model that is trained, at every step; here H' scores, once.

    Args: long l, short s: losses [..., n] of the tokens 1..n with long and with short context; strength gamma, 5 in the
    paper; context K in tokens. Returns float32 [..., n].
    Example: gains of 0, log 2 and 3 beyond the first K tokens, with gamma = 5, give 1, 2 and 5.
    """
    weights = np.minimum(np.exp(np.asarray(short, dtype=np.float64) - long), strength)
    weights[..., : max(context - 1, 0)] = 1
    return weights.astype(np.float32)


def helm_weights(long: np.ndarray, short: np.ndarray, strength: float) -> np.ndarray:
    r"""Dense weights of Helm et al. (2025, arXiv 2503.09202):

    $$w_t = \lambda + (1 - \lambda) \frac{n\,|s_t - l_t|}{\sum_{i=1}^n |s_i - l_i|}$$

    They have a mean of 1. Samples without any difference have equal weights. The authors compare the trained model with
    itself or with the base model on short context; here H' scores both, once.

    Args: long l, short s: losses [..., n] with long and with short context; strength lambda, in 0..1: 0.75 in
    the authors' settings for Llama-3. Returns float32 [..., n].
    Example: differences of 0, 1, -3 and 0 with lambda = 0.5 give 0.5, 1, 2 and 0.5.
    """
    apart = np.abs(np.asarray(long, dtype=np.float64) - short)
    # Smaller differences are none in float32, and their mean may be 0.
    flat = (apart.max(axis=-1, keepdims=True) < np.finfo(np.float32).tiny).astype(np.float64)
    return (strength + (1 - strength) * _mean_one(apart + flat)).astype(np.float32)


def _mean_one(weights: np.ndarray) -> np.ndarray:
    return (weights / weights.mean(axis=-1, keepdims=True)).astype(np.float32)
