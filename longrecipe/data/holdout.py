"""Which documents of a corpus are held out for measuring, and how its file of tokens is split in two."""

from pathlib import Path

import numpy as np

# One token in this many is held out, of the embedded English one text.
HELD_OUT_EVERY = 20
_AT_ONCE = 1 << 20


def held_out_documents(lengths: np.ndarray, held_out_every: int) -> np.ndarray:
    """Choose documents to hold out, bool [N]: together about one token in held_out_every.

    Documents are considered in a random order that is always the same, so that they come from the whole corpus. Each
    document that still fits is held out. If they have less than half of the wanted tokens, the shortest other document
    is added, unless more than half of all tokens would be held out. At least one document is held out, and at least
    one is not.
    Args: lengths int64 [N], tokens of each document, N >= 2.
    Example: for lengths `[60, 10, 15, 15]` and held_out_every = 10 the second document is held out; for
    `[90, 1, 80, 70]` and 20 the second and the last.
    """
    total, n_held = int(lengths.sum()), 0
    most = total // held_out_every
    is_held = np.zeros(len(lengths), dtype=bool)
    sizes = lengths.tolist()
    for i in np.random.default_rng(0).permutation(len(sizes)).tolist():
        if n_held + sizes[i] <= most:
            is_held[i], n_held = True, n_held + sizes[i]
    if 2 * n_held < most or not n_held:
        shortest = int(np.argmin(np.where(is_held, total + 1, lengths)))
        if not n_held or 2 * (n_held + sizes[shortest]) <= total:
            is_held[shortest] = True
    return is_held


def split_tokens(
    tokens: Path, train: Path, held_out: Path, *, lengths: np.ndarray, is_held: np.ndarray, dtype: np.dtype
) -> None:
    """Split a file of tokens in two. The larger part is made in place, so the disk never has to hold all tokens twice.

    Args: tokens, the file, which is changed and then renamed to train; lengths int64 [N] of its documents; is_held
    bool [N].
    """
    source, end = np.memmap(tokens, dtype=dtype, mode="r+"), 0
    with held_out.open("wb") as held:
        start = 0
        for size, away in zip(lengths.tolist(), is_held.tolist(), strict=True):
            for begin in range(start, start + size, _AT_ONCE):
                some = source[begin : min(begin + _AT_ONCE, start + size)]
                if away:
                    held.write(some.tobytes())
                else:
                    if end < begin:
                        source[end : end + len(some)] = some
                    end += len(some)
            start += size
    source.flush()
    del source
    with tokens.open("r+b") as file:
        file.truncate(end * dtype.itemsize)
    tokens.rename(train)
