"""Every interval and rank statistic of the kit: over seeds, over documents, and of hits in a number of trials."""

import math
import statistics
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

Triple = tuple[float, float, float]


def seed_interval(values: Sequence[float]) -> Triple:
    r"""Mean over seeds and its 95 % interval by Student's t, $\bar{x} \pm t\,s / \sqrt{n}$, n - 1 degrees of freedom.

    Returns mean, low, high. Raises ValueError for fewer than 2 seeds.
    """
    count = len(values)
    if count < 2:
        raise ValueError(f"an interval over seeds needs at least 2 of them, not {count}: run more seeds.")
    mean, half = statistics.mean(values), stats.t.ppf(0.975, count - 1) * statistics.stdev(values) / math.sqrt(count)
    return mean, float(mean - half), float(mean + half)


def wilson(hits: int, trials: int, level: float = 0.95) -> Triple:
    """Share of hits in independent trials and its interval by Wilson's score, which has a width even if all are hits.

    Returns share, low, high. Raises ValueError if there are no trials, or more hits than trials.
    """
    share = hits / trials if trials else math.nan
    found = stats.binomtest(hits, trials).proportion_ci(level, method="wilson")
    # With no hits or only hits one end is the share itself, except for rounding.
    return share, min(share, float(found.low)), max(share, float(found.high))


def bootstrap(values: np.ndarray, rng: np.random.Generator, level: float = 0.95, draws: int = 2000) -> Triple:
    """Mean of independent values [n] and its percentile bootstrap interval. Returns mean, low, high."""
    means = bootstrap_means(values, rng, draws)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(values.mean()), float(low), float(high)


def bootstrap_means(values: np.ndarray, rng: np.random.Generator, draws: int = 2000) -> np.ndarray:
    """The means of bootstrap draws of independent values [n], float [draws]."""
    return values[rng.integers(0, len(values), size=(draws, len(values)))].mean(axis=1)


def bootstrap_weights(count: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` values is drawn, int64 [draws, count]: for statistics that are sums over values."""
    return rng.multinomial(count, np.full(count, 1 / count), size=draws)


def percentile_interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of bootstrap draws [B, K], low [K] and high [K]; draws that are NaN are left out."""
    low, high = np.nanquantile(draws, [0.025, 0.975], axis=0)
    return low, high


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation of two rows [K], without pairs that have a NaN; NaN for fewer than 3 or a constant row."""
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 3:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return float(stats.spearmanr(first[both], second[both]).statistic)
