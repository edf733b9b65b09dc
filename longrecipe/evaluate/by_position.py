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
# The kinds of tokens that losses are averaged over: all, and those that LongPPL counts.
ALL, LONG_CONTEXT = "all", "long context"


def position_edges(window: int, target_length: int) -> list[int]:
    """Borders of bins of positions: quarters of the window W up to W, then W times 1.5, 2, 3, 4, 6, 8, ... up to T."""
    inside = [window * i // 4 for i in range(5)]
    beyond = [window * share for i in range(1, 16) for share in (1.5 * 2 ** (i - 1), 2**i)]
    return [*inside, *(int(edge) for edge in beyond if edge < target_length), target_length]


def losses_by_document(
    losses: Mapping[str, np.ndarray], edges: Sequence[int], chosen: np.ndarray | None = None
) -> pd.DataFrame:
    """Mean loss of each model in each document and bin of positions, in nats: what results keep of a reading.

    Args: losses: float [D, L - 1] of each model, of the tokens 1..L-1 of D documents, from `tokens.token_losses`;
    edges: borders of the bins in tokens, rising; token t is in the bin with start <= t < end; chosen: bool [D, L - 1],
    the tokens that need long context, None for none. Returns columns model, tokens (ALL or LONG_CONTEXT), document,
    start, end, count (of tokens) and loss; no rows for bins without such tokens.
    """
    rows = []
    for name, values in losses.items():
        kinds = {ALL: np.ones(values.shape, dtype=bool)} | ({} if chosen is None else {LONG_CONTEXT: chosen})
        for kind, kept in kinds.items():
            counted = np.where(kept, values, 0.0)
            for start, end in itertools.pairwise(edges):
                # Column t - 1 is token t; the first token has no loss.
                part = slice(max(start, 1) - 1, end - 1)
                counts, sums = kept[:, part].sum(axis=1), counted[:, part].sum(axis=1)
                rows += [
                    (name, kind, i, start, end, counts[i], sums[i] / counts[i]) for i in np.flatnonzero(counts).tolist()
                ]
    return pd.DataFrame(rows, columns=["model", "tokens", "document", "start", "end", "count", "loss"])


def loss_by_position(table: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """Mean loss of each model in each bin of positions, with 95 % bootstrap intervals over documents.

    Args: table: `losses_by_document`, all its tokens count. Returns a row for each model and bin: model, start, end,
    loss, low, high. There are no intervals (NaN) for fewer than LEAST_DOCUMENTS documents.
    """
    bins = table[table["tokens"] == ALL].groupby(["model", "start", "end"], sort=False)["loss"]
    rows = [(*at, *over_documents(each.to_numpy(), seed)) for at, each in bins]
    return pd.DataFrame(rows, columns=["model", "start", "end", "loss", "low", "high"])


def loss_difference(
    table: pd.DataFrame, one: str, other: str, start: int, *, end: int | None = None, tokens: str = ALL, seed: int = 0
) -> Triple:
    """How much higher the loss of one model is than that of another between two positions, with its interval over
    documents; paired, as both read the same text.

    Args: table: `losses_by_document`; start and end in tokens, borders of its bins, None for the end of the text;
    tokens: ALL or LONG_CONTEXT. Documents without such a token are left out. Returns mean, low, high, in nats; NaN
    without documents, and no interval (NaN) for fewer than LEAST_DOCUMENTS.
    """
    within = (table["tokens"] == tokens) & (table["start"] >= start)
    within &= True if end is None else table["end"] <= end
    rows = table[within].assign(sum=lambda found: found["loss"] * found["count"])
    sums = rows.groupby(["model", "document"])[["sum", "count"]].sum()
    means = (sums["sum"] / sums["count"]).unstack("model").reindex(columns=[one, other])
    apart = (means[one] - means[other]).dropna().to_numpy()
    return over_documents(apart, seed) if len(apart) else (np.nan,) * 3


def over_documents(values: np.ndarray, seed: int = 0) -> Triple:
    """The mean of a value of each document with its 95 % bootstrap interval.

    There is no interval (NaN) for fewer than LEAST_DOCUMENTS documents, or if all have the same value, which says
    nothing about further documents.
    """
    if len(values) < LEAST_DOCUMENTS or np.ptp(values) < 1e-9:
        return float(values.mean()), np.nan, np.nan
    return bootstrap(values.astype(np.float64), np.random.default_rng(seed))
