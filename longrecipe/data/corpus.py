"""A tokenised corpus, and the pieces that are taken from it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus: train and held_out token ids (1D, int64, or uint32 on disk), and the SHA-256 of its text.

    hub: the dataset of a hub that it was read from, as owner/name@commit; None for other text.
    """

    train: np.ndarray
    held_out: np.ndarray
    sha256: str
    hub: str | None = None


def stretches(source: np.ndarray, count: int, length: int) -> list[np.ndarray]:
    """The first `count` stretches of `length` consecutive tokens of source, without overlap.

    Raises ValueError if source is too short.
    """
    if len(source) < count * length:
        raise ValueError(
            f"{count} documents of {length} tokens need {count * length:,} tokens, but the corpus has {len(source):,}: "
            f"use at most {len(source) // length} documents, or shorter ones."
        )
    return list(source[: count * length].reshape(count, length))


def excerpt(source: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` consecutive tokens from a random place of source, int64. After the last token comes the first again."""
    return next(excerpts(source, 1, length, rng=rng))


def excerpts(source: np.ndarray, count: int, length: int, *, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`count` excerpts, as in `excerpt`. All places are drawn before the first excerpt is read."""
    starts = [int(rng.integers(len(source))) for _ in range(count)]
    return ((source[(start + np.arange(length)) % len(source)]).astype(np.int64, copy=False) for start in starts)
