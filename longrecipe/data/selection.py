"""Sentence selection (paper, section 4.1): which sentences of a long document a short training sample keeps."""

from typing import NamedTuple

import numpy as np

SELECTIONS: dict[str, str] = {
    "anchored": "sentences with anchors, at random (the paper's)",
    "density": "sentences by falling number of anchors per token",
    "shift": "sentences by falling sum of their tokens' shifts from H to H', per token",
    "random": "any sentences at random (Table 2's control)",
    "first": "the first n tokens (Table 2's control)",
}


class Sample(NamedTuple):
    """The part of a document that a model reads, all int64: token ids [n], the token counts of its segments [N], and
    the place of each segment's first token in the document [N]."""

    ids: np.ndarray
    segment_lengths: np.ndarray
    segment_starts: np.ndarray


def select(
    ids: np.ndarray,
    lengths: np.ndarray,
    is_anchor: np.ndarray | None,
    *,
    n_tokens: int,
    rng: np.random.Generator,
    how: str = "anchored",
    shift: np.ndarray | None = None,
) -> Sample:
    """Select whole sentences of a document with exactly n_tokens in all, in document order.

    Sentences are put into a queue and taken from its head until they have n_tokens; the last one is cut to fit. The
    order of the queue depends on `how`:
    `anchored`: sentences with an anchor in random order, then the others in random order. The paper only says that
    sentences without anchors are dropped and that a fixed number of tokens is taken; the rest is our reading.
    `density`: by falling number of anchors per token, ties in random order.
    `shift`: by falling sum of the shifts of their tokens, per token; the paper sums shifts by type (eq. 3).
    `random`: in random order.
    `first`: in document order.

    Args: ids int64 [T]; lengths int64 [N] of the sentences, with sum T; is_anchor bool [T], which tokens are anchors
    (may be None for `shift`, `random` and `first`); n_tokens in 1..T; how, one of SELECTIONS; shift float [T], for
    `shift`. Returns a Sample whose segments are the selected sentences.
    Raises ValueError if n_tokens is not in 1..T, for an unknown selection, and if anchors or shifts are missing or have
    another length than ids.
    Example: sentences `[1, 9], [5, 9], [2]` with anchor 5 and n_tokens = 3 may give ids `[5, 9, 2]`, lengths `[2, 1]`
    and starts `[2, 4]`.
    """
    if not 1 <= n_tokens <= len(ids):
        raise ValueError(f"n_tokens = {n_tokens}: must be 1 to {len(ids)}, the length of the document.")
    for name, values in (("is_anchor", is_anchor), ("shift", shift)):
        if values is not None and len(values) != len(ids):
            raise ValueError(f"{name} has {len(values)} entries, but the document has {len(ids)} tokens.")
    starts = np.cumsum(lengths) - lengths
    queue = _queue(lengths, starts, shift if how == "shift" else is_anchor, rng=rng, how=how)
    total = np.cumsum(lengths[queue])
    count = int(np.searchsorted(total, n_tokens)) + 1
    kept, sizes = queue[:count], lengths[queue[:count]].copy()
    sizes[-1] -= total[count - 1] - n_tokens
    order = np.argsort(kept)
    kept, sizes = kept[order], sizes[order]
    # Token i of the selection is token i + (offset of its sentence) of the document.
    places = np.arange(n_tokens) + np.repeat(starts[kept] - np.cumsum(sizes) + sizes, sizes)
    return Sample(ids[places], sizes, starts[kept])


def whole(ids: np.ndarray, lengths: np.ndarray | None = None) -> Sample:
    """The Sample of a text that is read as a whole, in segments of the given lengths (None: in one segment)."""
    lengths = np.array([len(ids)]) if lengths is None else lengths
    return Sample(ids, lengths, np.cumsum(lengths) - lengths)


def _queue(
    lengths: np.ndarray, starts: np.ndarray, values: np.ndarray | None, *, rng: np.random.Generator, how: str
) -> np.ndarray:
    """The order in which sentences are taken, as indices [N]; values: shifts of tokens, or which are anchors."""
    if how == "first":
        return np.arange(len(lengths))
    shuffled = rng.permutation(len(lengths))
    if how == "random":
        return shuffled
    if how not in SELECTIONS:
        raise ValueError(f"selection = {how!r}: allowed are {', '.join(SELECTIONS)}.")
    if values is None:
        needed = "the shifts of tokens: pass shift" if how == "shift" else "anchor tokens: run the token analysis first"
        raise ValueError(f"selection = {how!r} needs {needed}.")
    if how == "anchored":
        last = ~np.logical_or.reduceat(values, starts)
    else:
        last = -np.add.reduceat(values, starts, dtype=np.float64) / lengths
    return shuffled[np.argsort(last[shuffled], kind="stable")]
