"""Loss by position: where in a long text a model predicts well, and how far models differ there.

The usual curve of papers on context extension (PI, arXiv 2306.15595; YaRN, arXiv 2309.00071; PoSE, arXiv 2309.10400).
One reading of a document gives thousands of losses, so it shows differences that a few dozen questions cannot.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from longrecipe.stats import Triple, bootstrap

# Documents that an interval over documents needs at least.
LEAST_DOCUMENTS = 5


def position_edges(window: int, target_length: int) -> list[int]:
    """Borders of bins of positions: quarters of the window W up to W, then W times 1.5, 2, 3, 4, 6, 8, ... up to T."""
    inside = [window * i // 4 for i in range(5)]
    beyond = [window * share for i in range(1, 16) for share in (1.5 * 2 ** (i - 1), 2**i)]
    return [*inside, *(int(edge) for edge in beyond if edge < target_length), target_length]


def loss_by_position(losses: Mapping[str, np.ndarray], edges: Sequence[int], *, seed: int = 0) -> pd.DataFrame:
    """Mean loss of each model in bins of positions, in nats, with 95 % bootstrap intervals over documents.

    Args: losses: float [D, L - 1] of each model, of the tokens 1..L-1 of D documents, from `tokens.token_losses`;
    edges: borders of the bins in tokens, rising; token t is in the bin with start <= t < end. Returns a row for each
    model and bin: model, start, end, loss, low, high. There are no intervals (NaN) for fewer than LEAST_DOCUMENTS
    documents.
    """
    rows = []
    for name, each in losses.items():
        for start, end, part in _bins(each, edges):
            rows.append((name, start, end, *_over_documents(part.mean(axis=1), seed)))
    return pd.DataFrame(rows, columns=["model", "start", "end", "loss", "low", "high"])


def difference_beyond(one: np.ndarray, other: np.ndarray, start: int, chosen: np.ndarray, *, seed: int = 0) -> Triple:
    """How much higher the loss of one model is than that of another from a position on, with its interval over
    documents; paired, as both read the same text.

    Args: one, other: losses float [D, L - 1], of the tokens 1..L-1; start in tokens; chosen: bool [D, L - 1], the
    tokens that count. Documents without such a token are left out. Returns mean, low, high, in nats; NaN without
    documents.
    """
    apart, kept = (one - other)[:, start - 1 :], chosen[:, start - 1 :]
    some = kept.any(axis=1)
    if not some.any():
        return (np.nan,) * 3
    return _over_documents((apart * kept)[some].sum(axis=1) / kept[some].sum(axis=1), seed)


def _bins(values: np.ndarray, edges: Sequence[int]) -> list[tuple[int, int, np.ndarray]]:
    # Column t - 1 is token t; the first token has no loss.
    parts = [(start, end, values[:, max(start, 1) - 1 : end - 1]) for start, end in itertools.pairwise(edges)]
    return [each for each in parts if each[2].shape[1]]


def _over_documents(values: np.ndarray, seed: int) -> Triple:
    if len(values) < LEAST_DOCUMENTS:
        return float(values.mean()), np.nan, np.nan
    return bootstrap(values.astype(np.float64), np.random.default_rng(seed))
