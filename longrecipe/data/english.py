"""The embedded English: real text that every Python installation carries, so that the mini models need no download."""

import ast
import functools
import hashlib
import re
import sysconfig
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.corpus import Corpus
from longrecipe.data.encoding import encode
from longrecipe.data.holdout import HELD_OUT_EVERY

# Of the text without planted facts, one text in this many is held out: measuring at 16k tokens needs at least 16k
# tokens, and this gives 26k of SmolLM2.
NATURAL_HELD_OUT_EVERY = 8


def reference_texts() -> list[str]:
    """Python's language reference (`pydoc_data.topics`), about 80 texts, cleaned as `english_texts` describes."""
    return [_clean(text) for text in _reference()]


def english_texts(planted: bool = True) -> list[str]:
    """The embedded English, about 1,300 texts.

    These are `reference_texts()` and then all docstrings of at least 200 characters in the top-level modules of the
    standard library. The wording differs a little between Python versions.
    planted: if true, the texts are cleaned for planted facts: only ASCII is kept, markup and quotes are removed, and
    digits are removed, so that every number is a planted fact. Otherwise numbers, quotes and hyphens are kept, rules
    and emphasis marks are removed, and a paragraph that occurred before is dropped, because the reference repeats
    itself.
    Raises FileNotFoundError if the standard library has no source files.
    """
    return list(_english_texts(planted))


@functools.cache
def _english_texts(planted: bool) -> tuple[str, ...]:
    # Cached because parsing the standard library takes seconds, and each run of a sweep needs it.
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    if not modules:
        raise FileNotFoundError(
            f"no modules in {sysconfig.get_path('stdlib')}: this Python was installed without its source."
        )
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
    # Imported here because most users of this module do not need its half megabyte of text.
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
        # A dict keeps the first of equal paragraphs, in order.
        paragraphs = list(dict.fromkeys(text.split("\n\n")))
        kept.append("\n\n".join(part for part in paragraphs if part not in seen))
        seen.update(part for part in paragraphs if len(part) >= 40)
    return [text for text in kept if text.strip()]


def load_english(
    tokenizer: PreTrainedTokenizerBase, held_out_every: int = HELD_OUT_EVERY, planted: bool = True
) -> Corpus:
    """The embedded English, tokenised. One text in held_out_every is held out for measuring.

    planted: as in `english_texts`. Raises ValueError for held_out_every < 2.
    """
    if held_out_every < 2:
        raise ValueError(f"held_out_every = {held_out_every}: must be at least 2, or no text is left for training.")
    texts = english_texts(planted)
    held = texts[::held_out_every]
    held_set = set(held)
    # A few docstrings occur twice. Copies of held-out texts must not be trained on.
    train = [text for text in texts if text not in held_set]
    digest = hashlib.sha256("\n\n".join(texts).encode()).hexdigest()
    return Corpus(_encode(tokenizer, "\n\n".join(train)), _encode(tokenizer, "\n\n".join(held)), digest)


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    return np.asarray(encode(tokenizer, [text])[0], dtype=np.int64)
