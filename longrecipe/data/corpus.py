"""Text: real English that every Python carries, and sentence selection."""

import ast
import functools
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.encoding import encode


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus: train and held_out token ids (1D, int64, or uint32 on disk), and the SHA-256 of its text."""

    train: np.ndarray
    held_out: np.ndarray
    sha256: str


class Sample(NamedTuple):
    """What is read of a document: token ids [n], token counts of its segments [N], and where in the document each
    segment starts [N]; all int64."""

    ids: np.ndarray
    segment_lengths: np.ndarray
    segment_starts: np.ndarray


def reference_texts() -> list[str]:
    """Python's language reference (`pydoc_data.topics`), about 80 texts, cleaned as `english_texts` says."""
    return [_clean(text) for text in _reference()]


def english_texts(planted: bool = True) -> list[str]:
    """Real English that every CPython carries: the language reference and the longer docstrings, about 1,300 texts.

    `reference_texts()`, then the docstrings of 200 characters and more of the standard library's top-level modules.
    planted: cleaned for the mini experiments, ASCII only, markup rules and quotes dropped, runs of blanks closed, and
    digits removed, so that every number is a planted fact. Otherwise as people wrote it: numbers, quotes and hyphens
    stay, only rules and emphasis marks go, and a paragraph that was there before (the reference repeats itself) is
    dropped. The wording differs a little between Python versions.
    Raises FileNotFoundError if the standard library has no source files.
    """
    return list(_english_texts(planted))


@functools.cache
def _english_texts(planted: bool) -> tuple[str, ...]:
    # Reading all of the standard library takes seconds, and every run of a sweep asks for it.
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    if not modules:
        raise FileNotFoundError(f"no modules in {sysconfig.get_path('stdlib')}: this Python ships without its source.")
    texts = []
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        docstrings = (ast.get_docstring(node) or "" for node in nodes)
        texts += [text for text in docstrings if len(text) >= 200]
    reference = _reference()
    if planted:
        return tuple(_clean(text) for text in reference + texts)
    return tuple(_without_repeats([_natural(text) for text in reference + texts]))


def _reference() -> list[str]:
    # Imported here: half a megabyte of text that most uses of this module do not need.
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _clean(text: str) -> str:
    text = re.sub(r"[^\x20-\x7e\n]", "", text)
    text = re.sub(r"[*_=\-^`\"\\]+", " ", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\d", "", text))


def _natural(text: str) -> str:
    text = re.sub(r"[=*~^_\-]{3,}", "", text)
    text = re.sub(r"[*`]+", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+", " ", text))


def _without_repeats(texts: list[str]) -> list[str]:
    seen, kept = set(), []
    for text in texts:
        # Insertion order of a dict: the first of equal paragraphs stays.
        paragraphs = list(dict.fromkeys(text.split("\n\n")))
        kept.append("\n\n".join(part for part in paragraphs if part not in seen))
        seen.update(part for part in paragraphs if len(part) >= 40)
    return [text for text in kept if text.strip()]


def load_english(tokenizer: PreTrainedTokenizerBase, held_out_every: int = 20, planted: bool = True) -> Corpus:
    """The embedded English corpus, tokenised; one text in held_out_every is held out for measuring.

    planted: as in `english_texts`. Raises ValueError for held_out_every < 2.
    """
    if held_out_every < 2:
        raise ValueError(f"held_out_every = {held_out_every}: at least 2, or nothing is left to train on.")
    texts = english_texts(planted)
    held = texts[::held_out_every]
    held_set = set(held)
    # A few docstrings occur twice; a copy of a held-out text must not be trained on.
    train = [text for text in texts if text not in held_set]
    digest = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    return Corpus(_encode(tokenizer, "\n\n".join(train)), _encode(tokenizer, "\n\n".join(held)), digest)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    return np.asarray(encode(tokenizer, [text])[0], dtype=np.int64)


def stretches(source: np.ndarray, count: int, length: int) -> list[np.ndarray]:
    """The first `count` stretches of `length` consecutive tokens of source, which do not overlap.

    Raises ValueError if source is too short for them.
    """
    if len(source) < count * length:
        raise ValueError(
            f"{count} documents of {length} tokens need {count * length:,} tokens; the corpus has {len(source):,}: "
            f"ask for at most {len(source) // length} documents, or for shorter ones."
        )
    return np.split(source[: count * length], count)


SELECTIONS: dict[str, str] = {
    "anchored": "sentences with anchors, at random (the paper's)",
    "density": "sentences by falling number of anchors a token",
    "random": "any sentences at random (Table 2's control)",
    "first": "the first n tokens (Table 2's control)",
}


def select(
    ids: np.ndarray,
    lengths: np.ndarray,
    is_anchor: np.ndarray | None,
    n_tokens: int,
    rng: np.random.Generator,
    how: str = "anchored",
) -> Sample:
    """Sentence selection (paper, section 4.1): exactly n_tokens of a document, as whole sentences in document order.

    Sentences are put in a queue, and taken from its head until n_tokens is reached; the last one taken is cut to hit
    n_tokens. The queue of `anchored`: those that hold an anchor, at random, then the others at random (the paper says
    only that sentences without anchors are dropped and a fixed number of tokens is taken; the rest is our reading);
    `density`: by falling number of anchors a token, ties at random; `random`: at random; `first`: as they stand.

    Args: ids int64 [T]; lengths int64 [N], sum T; is_anchor bool [T], which tokens are anchors (None for `random` and
    `first`); n_tokens in 1..T; how, of SELECTIONS. Returns the Sample of n_tokens, its sentences being the segments.
    Raises ValueError if n_tokens is not in 1..T, for an unknown selection, and for anchors
    that are missing or of another length.
    Example: sentences `[1, 9], [5, 9], [2]` with anchor 5 and n_tokens = 3 may give ids `[5, 9, 2]`, lengths `[2, 1]`
    and starts `[2, 4]`.
    """
    if not 1 <= n_tokens <= len(ids):
        raise ValueError(f"n_tokens = {n_tokens}: the document holds 1 to {len(ids)} tokens.")
    if is_anchor is not None and len(is_anchor) != len(ids):
        raise ValueError(f"is_anchor has {len(is_anchor)} entries, the document {len(ids)} tokens: one for each token.")
    starts = np.cumsum(lengths) - lengths
    queue = _queue(lengths, starts, is_anchor, rng, how)
    total = np.cumsum(lengths[queue])
    count = int(np.searchsorted(total, n_tokens)) + 1
    kept, sizes = queue[:count], lengths[queue[:count]].copy()
    sizes[-1] -= total[count - 1] - n_tokens
    order = np.argsort(kept)
    kept, sizes = kept[order], sizes[order]
    # Token i of the selection is i + offset of its sentence further in the document.
    places = np.arange(n_tokens) + np.repeat(starts[kept] - np.cumsum(sizes) + sizes, sizes)
    return Sample(ids[places], sizes, starts[kept])


def as_it_stands(ids: np.ndarray, lengths: np.ndarray | None = None) -> Sample:
    """The Sample of a text that is read whole, in segments of the given lengths (None: all of it is one)."""
    lengths = np.array([len(ids)]) if lengths is None else lengths
    return Sample(ids, lengths, np.cumsum(lengths) - lengths)


def _queue(
    lengths: np.ndarray, starts: np.ndarray, is_anchor: np.ndarray | None, rng: np.random.Generator, how: str
) -> np.ndarray:
    if how == "first":
        return np.arange(len(lengths))
    shuffled = rng.permutation(len(lengths))
    if how == "random":
        return shuffled
    if how not in SELECTIONS:
        raise ValueError(f"selection = {how!r}: allowed are {', '.join(SELECTIONS)}.")
    if is_anchor is None:
        raise ValueError(f"selection = {how!r} goes by anchor tokens: run the token analysis first.")
    if how == "anchored":
        last = ~np.logical_or.reduceat(is_anchor, starts)
    else:
        last = -np.add.reduceat(is_anchor, starts, dtype=np.int64) / lengths
    return shuffled[np.argsort(last[shuffled], kind="stable")]


def excerpt(source: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` consecutive tokens from a random place of source, which is read as a ring; int64."""
    return next(excerpts(source, 1, length, rng))


def excerpts(source: np.ndarray, count: int, length: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """`count` excerpts, one after the other; all places are drawn at once, before the first is read."""
    starts = [int(rng.integers(len(source))) for _ in range(count)]
    return ((source[(start + np.arange(length)) % len(source)]).astype(np.int64, copy=False) for start in starts)
