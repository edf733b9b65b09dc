"""Text: real English that every Python carries, sentences found on decoded text, and sentence selection."""

import ast
import hashlib
import re
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

SENTENCE_ENDS = (".", "!", "?", "\n")


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus: train and held_out token ids (int64, 1D), and the SHA-256 of the cleaned text."""

    train: np.ndarray
    held_out: np.ndarray
    sha256: str


def reference_texts() -> list[str]:
    """Python's language reference (`pydoc_data.topics`), about 80 texts, cleaned as `english_texts` says."""
    # Imported here: half a megabyte of text that most uses of this module do not need.
    from pydoc_data.topics import topics

    return [_clean(topics[name]) for name in sorted(topics)]


def english_texts() -> list[str]:
    """Real English that every CPython carries: the language reference and the longer docstrings, about 1,300 texts.

    `reference_texts()`, then the docstrings of 200 characters and more of the standard library's
    top-level modules, cleaned: ASCII only, markup rules and quotes dropped, runs of blanks closed, and digits removed,
    so that every number in the mini experiments is a planted fact. The wording differs a little between Python
    versions. Raises FileNotFoundError where the standard library has no source files.
    """
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    if not modules:
        raise FileNotFoundError(f"no modules in {sysconfig.get_path('stdlib')}: this Python ships without its source.")
    texts = []
    for path in modules:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        docstrings = (ast.get_docstring(node) or "" for node in nodes)
        texts += [text for text in docstrings if len(text) >= 200]
    return reference_texts() + [_clean(text) for text in texts]


def _clean(text: str) -> str:
    text = re.sub(r"[^\x20-\x7e\n]", "", text)
    text = re.sub(r"[*_=\-^`\"\\]+", " ", text)
    return re.sub(r"[ \t]+", " ", re.sub(r"\d", "", text))


def load_english(tokenizer: PreTrainedTokenizerBase, held_out_every: int = 20) -> Corpus:
    """The embedded English corpus, tokenised; one text in held_out_every is held out for measuring.

    Raises ValueError for held_out_every < 2.
    """
    if held_out_every < 2:
        raise ValueError(f"held_out_every = {held_out_every}: at least 2, or nothing is left to train on.")
    texts = english_texts()
    held = texts[::held_out_every]
    held_set = set(held)
    # A few docstrings occur twice; a copy of a held-out text must not be trained on.
    train = [text for text in texts if text not in held_set]
    digest = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    return Corpus(_encode(tokenizer, "\n\n".join(train)), _encode(tokenizer, "\n\n".join(held)), digest)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.int64)


def token_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The decoded text of every token id, `[vocabulary]`."""
    return [tokenizer.decode([i]) for i in range(len(tokenizer))]


def sentence_end_ids(tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Which token ids end a sentence: those whose decoded text holds `.`, `!`, `?` or a newline (bool [vocabulary])."""
    return np.array([any(end in text for end in SENTENCE_ENDS) for text in token_strings(tokenizer)])


def sentence_lengths(ids: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Token counts of the sentences of a document: a sentence ends with, and holds, its end token (paper, 4.2).

    Args: ids int64 [T]; ends bool [vocabulary] from `sentence_end_ids`. Returns int64 [N] that sums to T.
    Example: with end token 9, `[1, 2, 9, 3, 4]` gives `[3, 2]`.
    """
    stops = np.flatnonzero(ends[ids]) + 1
    bounds = np.unique(np.concatenate([[0], stops, [len(ids)]]))
    return np.diff(bounds)


def select(
    ids: np.ndarray, lengths: np.ndarray, anchors: np.ndarray, n_tokens: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sentence selection (paper, section 4.1): exactly n_tokens of a document, from sentences with anchor tokens.

    Sentences that hold an anchor are drawn uniformly at random until n_tokens is reached, others at random only where
    those do not suffice; the last one drawn is cut to hit n_tokens; document order is kept. (The paper says only that
    sentences without anchors are dropped and a fixed number of tokens is taken; the rest is our reading.)

    Args: ids int64 [T]; lengths int64 [N], sum T; anchors bool [vocabulary]; n_tokens in 1..T.
    Returns the selected ids [n_tokens] and the lengths of its segments.
    Raises ValueError where n_tokens is not in 1..T.
    Example: sentences `[1, 9], [5, 9], [2]` with anchor 5 and n_tokens = 3 may give ids `[5, 9, 2]`, lengths `[2, 1]`.
    """
    if not 1 <= n_tokens <= len(ids):
        raise ValueError(f"n_tokens = {n_tokens}: the document holds 1 to {len(ids)} tokens.")
    starts = np.cumsum(lengths) - lengths
    anchored = np.logical_or.reduceat(anchors[ids], starts)
    shuffled = rng.permutation(len(lengths))
    drawn = shuffled[np.argsort(~anchored[shuffled], kind="stable")]
    total = np.cumsum(lengths[drawn])
    count = int(np.searchsorted(total, n_tokens)) + 1
    kept, sizes = drawn[:count], lengths[drawn[:count]].copy()
    sizes[-1] -= total[count - 1] - n_tokens
    order = np.argsort(kept)
    kept, sizes = kept[order], sizes[order]
    within = np.arange(n_tokens) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ids[np.repeat(starts[kept], sizes) + within], sizes


def excerpt(source: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """`length` consecutive tokens from a random place of source, which is read as a ring."""
    return source[(int(rng.integers(len(source))) + np.arange(length)) % len(source)]
