"""LongRecipe's position index transformation, and two variants that show which part of it matters."""

from collections.abc import Sequence

import numpy as np

from longrecipe.positions.segments import checked, law, left_over, pairs_apart, placed


def longrecipe(
    segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator, *, max_gap: int | None = None
) -> np.ndarray:
    r"""LongRecipe's position index transformation (paper, section 4.2, Algorithm 1; with max_gap its equation 6).

    The first segment starts at 0; the others keep their order, stay contiguous inside and never overlap, and the last
    index is below T. With N segments, n tokens and slack $S = T - n$, the N - 1 later segments take distinct uniform
    slots among S + N - 1 (stars and bars), so that the offsets $o_2 \le ... \le o_N \le S$ are a uniform random
    composition of the slack and $p_i = i + o_{seg(i)}$. The mean pairwise distance is close to T / 3 (Figure 3).

    max_gap: M of equation 6, in tokens: gaps between neighbours are $g_k \sim U\{0, ..., M\}$ instead, until T is
    reached: $o_k = \min(g_2 + ... + g_k, S)$. The paper gives no M; with M = 0 positions are contiguous, as it says
    (its "+1" would contradict that), and M = 2 S / (N - 1) fills the target on average.

    Args: segment_lengths [N] in tokens; target_length T in tokens. Returns int64 [n].
    Raises ValueError if a length is not positive, n > T or max_gap < 0.
    Example: `longrecipe([2, 2, 1], 10, rng)` with offsets 0, 2, 5 gives `[0, 1, 4, 5, 9]`.
    """
    lengths = checked(segment_lengths, target_length)
    slack, later = target_length - int(lengths.sum()), len(lengths) - 1
    if max_gap is None:
        slots = np.sort(rng.choice(slack + later, size=later, replace=False))
        offsets = slots - np.arange(later)
    elif not 0 <= max_gap < 2**63 - 1:
        raise ValueError(f"max_gap = {max_gap}: must be 0 or more tokens, or None for Algorithm 1.")
    else:
        gaps = np.minimum(rng.integers(0, max_gap, size=later, endpoint=True), slack)
        offsets = np.minimum(np.cumsum(gaps), slack)
    return placed(lengths, np.concatenate([[0], offsets]))


def longrecipe_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    r"""Closed form of Algorithm 1: the N - 1 gaps and the rest after the last segment are exchangeable parts of S, so
    $E[g_k] = S / N$, $P(g_k = 0) = (N - 1) / (S + N - 1)$, and the rest exceeds x with probability
    $\prod_{j=0}^{x} (S - j) / (S + N - 1 - j)$.
    """
    n, later = int(lengths.sum()), len(lengths) - 1
    slack, over = target_length - n, left_over(target_length)
    j = np.arange(over + 1)
    beyond = np.prod(np.maximum(slack - j, 0) / np.maximum(slack + later - j, 1)) if later else float(slack > over)
    touching = later / (slack + later) if later else 0.0
    distance = (n + 1) / 3 + slack / (later + 1) * pairs_apart(lengths).sum()
    return law(n, distance, jumps=later * (1 - touching), reach=1 - beyond)


def stratified(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    r"""Stratified LongRecipe, this kit's own: Algorithm 1 with its offsets drawn one from each of N - 1 equal strata,

    $$o_{k+2} = \lfloor (k + u_k)\,(S + 1) / (N - 1) \rfloor, \quad u_k \sim U[0, 1), \quad k = 0, ..., N - 2.$$

    The marginal law is that of Algorithm 1: every offset 0, ..., S is taken by (N - 1) / (S + 1) segments on average.
    But offsets repel each other: no sample leaves out a large stretch of the target, and the pairwise distances of a
    few samples cover it more evenly. Low-discrepancy points shared by the samples of a batch, instead of independent
    u_k, cover no more than this, see `tests/benchmarks/bench_coverage.py`.

    Args: segment_lengths [N] in tokens; target_length T in tokens. Returns int64 [n].
    Raises ValueError if a length is not positive or n > T.
    Example: lengths `[2, 2, 1]`, T = 10: the strata are offsets 0 to 2 and 3 to 5; 1 and 4 give `[0, 1, 3, 4, 8]`.
    """
    lengths = checked(segment_lengths, target_length)
    slack, later = target_length - int(lengths.sum()), len(lengths) - 1
    offsets = (np.arange(later) + rng.random(later)) * ((slack + 1) / max(later, 1))
    # Rounding may move a draw beyond the upper end.
    offsets = np.minimum(offsets.astype(np.int64), slack)
    return placed(lengths, np.concatenate([[0], offsets]))


def stratified_law(lengths: np.ndarray, target_length: int) -> dict[str, float]:
    """Closed form of the mean distance, from $E[o_k]$, the mean of the floor over a stratum; {} for one segment."""
    n, later = int(lengths.sum()), len(lengths) - 1
    if not later:
        return {}
    edges = np.arange(later + 1) * ((target_length - n + 1) / later)
    whole = np.floor(edges)
    area = whole * (whole - 1) / 2 + whole * (edges - whole)
    offsets = np.diff(area) / np.diff(edges)
    return {"mean_distance": (n + 1) / 3 + float(np.diff(offsets, prepend=0) @ pairs_apart(lengths))}


def source(
    segment_lengths: Sequence[int],
    target_length: int,
    rng: np.random.Generator,
    *,
    segment_starts: Sequence[int] | None = None,
) -> np.ndarray:
    r"""Every segment keeps its true offset in its document: $p_i = a_{seg(i)} + i - \text{first}(seg(i))$.

    No transformation, only a document with holes: the control that shows what drawing positions adds.

    Args: segment_lengths [N] in tokens; target_length T in tokens; rng is not used; segment_starts a [N], the index in
    their document of the segments' first tokens. Returns int64 [n]; the first index is that of the first segment.
    Raises ValueError if a length is not positive, or segment_starts is missing, has another length, overlaps or leads
    beyond T.
    Example: `source([2, 2, 1], 10, rng, segment_starts=[1, 4, 9])` gives `[1, 2, 4, 5, 9]`.
    """
    lengths = checked(segment_lengths, target_length)
    if segment_starts is None:
        raise ValueError("source keeps true offsets: give segment_starts, the index of each segment's first token.")
    starts = np.asarray(segment_starts, dtype=np.int64)
    if starts.shape != lengths.shape:
        raise ValueError(f"segment_starts has {starts.size} entries for {len(lengths)} segments: one for each.")
    ends = starts + lengths
    if starts[0] < 0 or (starts[1:] < ends[:-1]).any():
        raise ValueError(f"segment_starts = {starts.tolist()!s:.80}: must be 0 or more, in order, without overlap.")
    if ends[-1] > target_length:
        raise ValueError(
            f"the last segment ends at {ends[-1]}, beyond target_length = {target_length}: "
            "take documents of target_length tokens, or raise target_length."
        )
    return placed(lengths, starts - np.cumsum(lengths) + lengths)
