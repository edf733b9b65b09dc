r"""Position index transformation: short samples that carry the position indices of long ones (paper, section 4.2).

Every transform is a pure function `f(segment_lengths, target_length, rng) -> position_ids`: from the token counts of
a sample's segments (sentences), n = sum(segment_lengths) tokens in all, and the target window T it draws n strictly
increasing integers in [0, T). `METHODS` is the one table that params, notebooks and error messages read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

PositionFunction = Callable[[Sequence[int], int, np.random.Generator], np.ndarray]


def flt(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    """Full-length training: every token keeps its own index, $p_i = i$ (paper, section 5, baseline FLT).

    Args: segment_lengths [N] in tokens; target_length T in tokens; rng is not used. Returns int64 [n].
    Raises ValueError where a length is not positive or n > T.
    Example: `flt([2, 3], 10, rng)` gives `[0, 1, 2, 3, 4]`.
    """
    lengths = _checked(segment_lengths, target_length)
    return np.arange(lengths.sum())


def rpes(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    r"""Randomised positional encoding: a sorted uniform sample without replacement of {0, ..., T-1}
    (Ruoss et al. 2023, arXiv 2305.16843, section 3; paper, section 5, baseline RPES).

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens. Returns int64 [n].
    Raises ValueError where a length is not positive or n > T.
    Example: five tokens and T = 10 may give `[1, 2, 5, 7, 8]`.
    """
    lengths = _checked(segment_lengths, target_length)
    return np.sort(rng.choice(target_length, size=lengths.sum(), replace=False))


def pose(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    r"""Positional skip-wise training with two chunks: $p_i = i$ for $i < c$ and $p_i = i + s$ after it
    (Zhu et al. 2023, arXiv 2309.10400, section 3.2; paper, section 5, baseline PoSE).

    The first chunk's length $c \sim U\{1, ..., n-1\}$ and the skip $s \sim U\{0, ..., T-n\}$ are drawn anew for each
    example, so that the split always falls inside the sample (the paper's public code draws it over T instead, and
    most of its samples then have no skip at all).

    Args: segment_lengths [N] in tokens, of which only the sum n counts; target_length T in tokens. Returns int64 [n].
    Raises ValueError where a length is not positive or n > T.
    Example: five tokens and T = 10, c = 2 and s = 4, give `[0, 1, 6, 7, 8]`.
    """
    n = int(_checked(segment_lengths, target_length).sum())
    chunk = int(rng.integers(1, n)) if n > 1 else 1
    skip = int(rng.integers(0, target_length - n + 1))
    index = np.arange(n)
    return index + skip * (index >= chunk)


def longrecipe(segment_lengths: Sequence[int], target_length: int, rng: np.random.Generator) -> np.ndarray:
    r"""LongRecipe's position index transformation (paper, section 4.2, Algorithm 1).

    The first segment starts at 0; the others keep their order, stay contiguous inside and never overlap, and the last
    index is below T. With N segments, n tokens and slack $S = T - n$, the N - 1 later segments take distinct uniform
    slots among S + N - 1 (stars and bars), so that the offsets $o_2 \le ... \le o_N \le S$ are a uniform random
    composition of the slack and $p_i = i + o_{seg(i)}$. The mean pairwise distance is close to T / 3 (Figure 3).

    Args: segment_lengths [N] in tokens; target_length T in tokens. Returns int64 [n].
    Raises ValueError where a length is not positive or n > T.
    Example: `longrecipe([2, 2, 1], 10, rng)` with offsets 0, 2, 5 gives `[0, 1, 4, 5, 9]`.
    """
    lengths = _checked(segment_lengths, target_length)
    slack, later = target_length - int(lengths.sum()), len(lengths) - 1
    slots = np.sort(rng.choice(slack + later, size=later, replace=False))
    offsets = np.concatenate([[0], slots - np.arange(later)])
    return np.arange(lengths.sum()) + np.repeat(offsets, lengths)


@dataclass(frozen=True)
class Method:
    """A way to train for a longer window: which text of a document it reads, and which positions it gives it.

    text: `"selected"` takes n tokens of sentences that hold anchor tokens, `"first"` the first n tokens, `"whole"` all
    T tokens. positions: a transform of this module, or None where nothing is trained.
    """

    positions: PositionFunction | None
    text: Literal["selected", "first", "whole"]
    summary: str


METHODS: dict[str, Method] = {
    "longrecipe": Method(longrecipe, "selected", "anchored sentences at random ordered positions (Algorithm 1)"),
    "pose": Method(pose, "first", "two chunks of the first n tokens, one random skip between them"),
    "rpes": Method(rpes, "first", "the first n tokens at a sorted random sample of all T positions"),
    "flt": Method(flt, "whole", "full-length training: all T tokens at their own positions"),
    "none": Method(None, "first", "control: raise the RoPE base, train nothing"),
}


def _checked(segment_lengths: Sequence[int], target_length: int) -> np.ndarray:
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
