r"""What positions cover: distances between tokens, runs without a jump, and how much of the target is reached.

Samples are sequences of position_ids (int64 [n], strictly increasing, below the target T). Statistics of distances are
computed from their pair counts, which `pair_counts` computes once.
"""

from collections.abc import Sequence

import numpy as np

from longrecipe.positions.methods import find
from longrecipe.positions.segments import checked, left_over


def mean_distance(positions: np.ndarray) -> float:
    r"""Mean distance of all pairs of tokens, $\frac{2}{n (n-1)} \sum_{i<j} (p_j - p_i)$ (paper, Figure 3), in tokens.

    Example: `[0, 1, 5]` has the distances 1, 5 and 4, mean 10 / 3. Raises ValueError below two tokens.
    """
    n = len(positions)
    if n < 2:
        raise ValueError(f"{n} tokens have no pairs: a distance needs at least 2.")
    # In a sorted row, p_i is the greater of i pairs and the smaller of n - 1 - i.
    return float(2 * (2 * np.arange(n) - n + 1) @ positions / (n * (n - 1)))


def contiguous_run(samples: Sequence[np.ndarray]) -> float:
    """Mean length of the runs of consecutive positions over all samples, in tokens (paper: about 88).

    Example: `[0, 1, 4, 5, 9]` has the runs 2, 2 and 1, mean 5 / 3.
    """
    runs = sum(1 + int((np.diff(each) > 1).sum()) for each in samples)
    return sum(map(len, samples)) / runs


def pair_counts(samples: Sequence[np.ndarray], target_length: int) -> np.ndarray:
    """The number of pairs of tokens at distance d in each sample, int64 [samples, T], for d = 0 (the n tokens), 1, ...,
    T - 1.

    An autocorrelation, by FFT in O(T log T) for each sample.
    Example: `[[0, 1, 5]]` and T = 6 give `[[3, 1, 0, 0, 1, 1]]`.
    """
    counts = np.empty((len(samples), target_length), dtype=np.int64)
    for row, positions in zip(counts, samples, strict=True):
        visited = np.zeros(2 * target_length)
        visited[positions] = 1
        spectrum = np.fft.rfft(visited)
        row[:] = np.rint(np.fft.irfft(spectrum * spectrum.conj(), 2 * target_length)[:target_length])
    return counts


def distances_covered(counts: np.ndarray) -> np.ndarray:
    """Share of the distances 1, ..., T - 1 of at least one pair, after the first 1, 2, ... samples: [samples].

    Args: counts [samples, T] of `pair_counts`.
    """
    return np.logical_or.accumulate(counts[:, 1:] > 0).mean(axis=1)


def distances_by(counts: np.ndarray, size: int) -> float:
    """Share of the distances 1, ..., T - 1 that `size` samples cover: mean over samples, taken `size` at a time.

    Args: counts [samples, T] of `pair_counts`. Raises ValueError for fewer samples than size.
    """
    batches = [counts[i : i + size, 1:] for i in range(0, len(counts) - size + 1, size)]
    if not batches:
        raise ValueError(f"size = {size}: there are {len(counts)} samples.")
    return float(np.mean([batch.any(axis=0).mean() for batch in batches]))


def positions_visited(samples: Sequence[np.ndarray], target_length: int) -> float:
    """Share of the positions 0, ..., T - 1 that at least one sample visits."""
    return len(np.unique(np.concatenate(samples))) / target_length


def reach(samples: Sequence[np.ndarray], target_length: int) -> float:
    r"""Share of samples that reach 90 % of the target: $p_n + 1 \ge 0.9\,T$ for their last token."""
    return float(np.mean([target_length - 1 - each[-1] <= left_over(target_length) for each in samples]))


def unevenness(counts: np.ndarray, n_bins: int = 64) -> float:
    """How much the pair counts differ from sample to sample: their standard deviation over samples in units of their
    mean, for each of n_bins equal ranges of distance, and the mean over the ranges.

    The mean counts of B independent samples vary by this over the square root of B.
    Args: counts [samples, T] of `pair_counts`. Raises ValueError below two samples.
    """
    if len(counts) < 2:
        raise ValueError(f"{len(counts)} sample: how much samples differ needs at least 2.")
    edges = np.unique(np.linspace(1, counts.shape[1], n_bins, endpoint=False).astype(int))
    binned = np.add.reduceat(counts, edges, axis=1)
    mean = binned.mean(axis=0)
    return float((binned.std(axis=0, ddof=1)[mean > 0] / mean[mean > 0]).mean())


def summary(samples: Sequence[np.ndarray], target_length: int) -> dict[str, float]:
    """All measures of samples; `expected` gives the closed forms of some of them by the same names."""
    counts = pair_counts(samples, target_length)
    return {
        "mean_distance": float(np.mean([mean_distance(each) for each in samples])),
        "contiguous_run": contiguous_run(samples),
        "reach": reach(samples, target_length),
        "visited_by_one": float(np.mean([len(each) / target_length for each in samples])),
        "visited_by_all": positions_visited(samples, target_length),
        "distances_by_one": distances_by(counts, 1),
        "distances_by_all": distances_by(counts, len(counts)),
        "unevenness": unevenness(counts),
    }


def expected(name: str, segment_lengths: Sequence[int], target_length: int) -> dict[str, float]:
    """Closed forms of `summary` for a method by name, see `Method.law`; {} if none is known, as for other options.

    Raises ValueError for an unknown name, for lengths that do not fit, and for fewer than two tokens.
    """
    method, lengths = find(name), checked(segment_lengths, target_length)
    if lengths.sum() < 2:
        raise ValueError(f"{lengths.sum()} tokens have no pairs: a distance needs at least 2.")
    return method.law(lengths, target_length) if method.law else {}
