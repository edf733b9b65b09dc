"""The baselines of the paper, full-length training, RPES and PoSE, and newer rivals on the same footing.

SkipAlign (arXiv 2405.03939) is left out: public text says that it skips inside and between the turns of instructions,
but does not define the distribution of its steps.
"""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from longrecipe.positions.segments import checked, law, left_over, placed

TERMINAL = 18  # tokens of EndPrompt's terminal prompt, by its authors' public code


def flt(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    """Full-length training: every token keeps its own index, $p_i = i$ (paper, section 5, baseline FLT).

    Args: segment_lengths [N] in tokens; target_length T in tokens; rng is not used. Returns int64 [n].
    Raises ValueError if a length is not positive or n > T.
    Example: `flt([2, 3], 10, rng)` gives `[0, 1, 2, 3, 4]`.
    """
    lengths = checked(segment_lengths, target_length)
    return np.arange(lengths.sum())


def flt_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    """Closed form: contiguous tokens, which reach the target only if they fill it."""
    n = int(lengths.sum())
    return law(n, (n + 1) / 3, jumps=0, reach=target_length - n <= left_over(target_length))


def rpes(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    r"""Randomised positional encoding: a sorted uniform sample without replacement of {0, ..., T-1}
    (Ruoss et al. 2023, arXiv 2305.16843, section 3; paper, section 5, baseline RPES).

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens. Returns int64 [n].
    Raises ValueError if a length is not positive or n > T.
    Example: five tokens and T = 10 may give `[1, 2, 5, 7, 8]`.
    """
    lengths = checked(segment_lengths, target_length)
    return np.sort(rng.choice(target_length, size=lengths.sum(), replace=False))


def rpes_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    r"""Closed form: mean distance (T + 1) / 3; two neighbours touch with probability n / T, and all n tokens are in the
    first m positions with probability $\prod_{i=0}^{n-1} (m - i) / (T - i)$.
    """
    n = int(lengths.sum())
    i, reached = np.arange(n), target_length - left_over(target_length) - 1
    missed = np.prod(np.maximum(reached - i, 0) / (target_length - i))
    jumps = (n - 1) * (target_length - n) / target_length
    return law(n, (target_length + 1) / 3, jumps=jumps, reach=1 - missed)


def pose(
    segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator, *, n_chunks: int = 2
) -> np.ndarray:
    r"""Positional skip-wise training: chunks of random length, skips between them (Zhu et al. 2023, arXiv 2309.10400,
    section 3.2; paper, section 5, baseline PoSE).

    With two chunks, the default, $p_i = i$ for $i < c$ and $p_i = i + s$ after it, with split point
    $c \sim U\{1, ..., n-1\}$ and skip $s \sim U\{0, ..., T-n\}$, both drawn for each example. The split is
    always inside the sample (LongRecipe's public code draws it over the slack T - n instead, so most of its samples
    have no skip at all). With more chunks, the split points are a uniform sample without replacement and the
    skips are sorted independent draws. This is our reading: Zhu et al. draw each skip between the one before it and
    T - n, which pushes all but the first chunks to the end of the target.

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens; n_chunks at least
    2, but never more than tokens. Returns int64 [n].
    Raises ValueError if a length is not positive, n > T or n_chunks < 2.
    Example: five tokens and T = 10, c = 2 and s = 4, give `[0, 1, 6, 7, 8]`.
    """
    n = int(checked(segment_lengths, target_length).sum())
    if n_chunks < 2:
        raise ValueError(f"n_chunks = {n_chunks}: PoSE needs at least 2 chunks.")
    jumps = min(n_chunks, n) - 1
    splits = np.sort(rng.choice(n - 1, size=jumps, replace=False)) + 1
    skips = np.sort(rng.integers(0, target_length - n, size=jumps, endpoint=True))
    chunks = np.diff(np.concatenate([[0], splits, [n]]))
    return placed(chunks, np.concatenate([[0], skips]))


def pose_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    r"""Closed form with two chunks: one gap of mean S / 2 at a uniform place, $E[c (n - c)] = n (n + 1) / 6$."""
    n = int(lengths.sum())
    slack = target_length - n
    reach = min(1.0, (left_over(target_length) + 1) / (slack + 1))
    return law(n, (n + 1) / 3 + slack * (n + 1) / (6 * (n - 1)), jumps=slack / (slack + 1), reach=reach)


def cream(
    segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator, *, sigma: float = 3.0
) -> np.ndarray:
    r"""CREAM: head, middle and tail, the middle put by a truncated Gaussian (Wu et al. 2024, arXiv 2406.07138).

    Head $0, ..., h-1$ and tail $T-h, ..., T-1$ are at the ends of the target. A random half of the samples has long
    ends, $h = \lfloor n/3 \rfloor$ (relativity), the other half short ones, $h = 4\,T/n$ but at most n/3 (continuity).
    With $L = T/n$ and $m = n - 2h$ tokens in the middle, $\alpha \sim \mathcal{N}((1 + L)/2, (\sigma/2)^2)$ truncated
    to $[1, L]$, and the middle's last index is $e \sim U\{h + (m-1)\,\alpha, ..., \alpha n - h - 1\}$, rounded down.
    h and the laws of $\alpha$ and e are those of the authors' public code (bigai-nlco/CREAM, src/train.py), which
    counts in half windows (hence $\sigma/2$). It differs in small things: $\alpha$ is rounded down to a half, draws
    beyond the ends are set to the ends, and h is chosen once for 3,000 samples. The authors read head, middle and tail
    from these places of a long document; here, as for PoSE, the first n tokens are read.

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens; sigma in half
    windows n/2. Returns int64 [n]; fewer than three tokens stay contiguous.
    Raises ValueError if a length is not positive, n > T or sigma is not positive.
    Example: six tokens, T = 18, h = 2, $\alpha$ = 2 and e = 8 give `[0, 1, 7, 8, 16, 17]`.
    """
    n = int(checked(segment_lengths, target_length).sum())
    if not 0 < sigma < np.inf:
        raise ValueError(f"sigma = {sigma}: must be positive and finite, in half windows.")
    if n < 3:
        return np.arange(n)
    factor = target_length / n
    ends = n // 3 if rng.random() < 0.5 else min(n // 3, round(4 * factor))
    middle = n - 2 * ends
    normal = NormalDist((1 + factor) / 2, sigma / 2)
    below, above = normal.cdf(1), normal.cdf(factor)
    # inv_cdf needs a number between 0 and 1; rounding may give 0 or 1.
    alpha = normal.inv_cdf(min(max(below + (above - below) * rng.random(), 1e-300), 1 - 1e-16))
    alpha = min(max(alpha, 1.0), factor)
    first, last = ends + middle - 1, target_length - ends - 1
    low, high = int(ends + (middle - 1) * alpha), int(alpha * n) - ends - 1
    end = int(rng.integers(min(max(low, first), last), min(max(high, first), last), endpoint=True))
    return placed(np.array([ends, middle, ends]), np.array([0, end - first, target_length - n]))


def endprompt(
    segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator, *, terminal: int = TERMINAL
) -> np.ndarray:
    r"""EndPrompt: the sample at its own positions, and its last tokens at the end of the target (arXiv 2605.14589):
    $p_i = i$ for $i < n - m$ and $p_i = T - n + i$ after it, with m = terminal.

    The paper appends a short prompt: 18 tokens by the README of the authors' public code (clx1415926/EndPrompt), 20 in
    one of its scripts; its words are not in that code. Here the last tokens of the sample are used instead, so these
    are the positions of EndPrompt, not its text.

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens; rng is not used;
    terminal m in tokens, at most n - 1. Returns int64 [n].
    Raises ValueError if a length is not positive, n > T or terminal < 1.
    Example: five tokens, T = 10 and m = 2 give `[0, 1, 2, 8, 9]`.
    """
    n = int(checked(segment_lengths, target_length).sum())
    if terminal < 1:
        raise ValueError(f"terminal = {terminal}: the terminal prompt has at least 1 token.")
    last = min(terminal, n - 1)
    return placed(np.array([n - last, last]), np.array([0, target_length - n]))


def endprompt_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    """Closed form with the default terminal: one gap, S, before the last tokens."""
    n = int(lengths.sum())
    slack, last = target_length - n, min(TERMINAL, n - 1)
    distance = (n + 1) / 3 + 2 * slack * last * (n - last) / (n * (n - 1))
    return law(n, distance, jumps=slack > 0, reach=1.0)
