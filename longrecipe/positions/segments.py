"""What all transforms and their laws share: checked segment lengths, segments at offsets, and the target's reach."""

from collections.abc import Sequence

import numpy as np

# A sample reaches the target if its last token is in the last tenth.
REACH = 0.9


def checked(segment_lengths: Sequence[int], target_length: int) -> np.ndarray:
    """The lengths as int64 [N]. Raises ValueError if one is not positive or their sum n exceeds T."""
    lengths = np.asarray(segment_lengths)
    if lengths.ndim != 1 or lengths.size == 0 or not np.issubdtype(lengths.dtype, np.integer):
        raise ValueError(f"segment_lengths must be a non-empty 1D list of token counts, got {segment_lengths!r:.80}.")
    lengths = lengths.astype(np.int64)
    if lengths.min() < 1:
        where = int(lengths.argmin())
        raise ValueError(f"segment_lengths[{where}] = {lengths[where]}: every segment needs at least one token.")
    if lengths.sum() > target_length:
        raise ValueError(
            f"{lengths.sum()} tokens do not fit target_length = {target_length}: "
            "shorten the sample (ratio at most 1) or raise target_length."
        )
    return lengths


def placed(lengths: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Positions of contiguous segments: $p_i = i + o_{seg(i)}$, with o_k the positions left out before segment k.

    Example: lengths `[2, 2, 1]` and offsets `[0, 2, 5]` give `[0, 1, 4, 5, 9]`.
    """
    positions = np.repeat(offsets, lengths)
    # In place: a third long array may come from fresh pages, which cost more than the sum.
    positions += np.arange(len(positions))
    return positions


def left_over(target_length: int) -> int:
    """How many positions a sample that reaches the target may leave out after its last token."""
    return int((1 - REACH) * target_length + 1e-9)


def law(n: int, distance: float, *, jumps: float, reach: float) -> dict[str, float]:
    """Expected values of `coverage.summary` for n tokens: mean distance, mean run by jumps, share that reach T."""
    return {"mean_distance": float(distance), "contiguous_run": n / (1 + jumps), "reach": float(reach)}


def pairs_apart(lengths: np.ndarray) -> np.ndarray:
    r"""The share of all pairs of tokens that each gap between segments separates, float64 [N - 1].

    With $c_k$ tokens before it, a gap separates $c_k (n - c_k)$ of $n (n - 1) / 2$ pairs, so gaps $g_k$ add
    $\frac{2}{n (n - 1)} \sum_k E[g_k]\,c_k\,(n - c_k)$ to the mean distance (n + 1) / 3 of contiguous tokens.
    """
    n = lengths.sum()
    before = np.cumsum(lengths)[:-1]
    return 2 * before * (n - before) / (n * (n - 1))
