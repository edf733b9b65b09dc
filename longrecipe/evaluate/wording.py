"""How the long-context tasks are put into words: planted facts for the mini models, sentences for any tokenizer."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.facts import is_key, is_value
from longrecipe.data.sentences import token_strings


@dataclass(frozen=True)
class Phrase:
    """A text that a task uses, in both wordings, with {key}, {value} and {other} to fill in."""

    planted: str
    sentences: str


@dataclass(frozen=True)
class Wording:
    """Which text of a `Phrase` tasks use, how it is encoded, and the keys and values to draw from.

    All keys have the same number of tokens, and so have all values: prompts of one task are equally long.
    """

    kind: Literal["planted", "sentences"]
    encode: Callable[[str], np.ndarray]
    decode: Callable[[np.ndarray], str]
    keys: tuple[str, ...]
    values: tuple[str, ...]

    def text(self, phrase: Phrase, **filled: str) -> str:
        """A phrase with its fields filled in; the template itself if none is given."""
        template = getattr(phrase, self.kind)
        return template.format(**filled) if filled else template

    def answer(self, question: str, text: str) -> np.ndarray:
        """Ids of an answer as it is tokenised after its question."""
        return self.encode(question + text)[len(self.encode(question)) :]


def planted(tokenizer: PreTrainedTokenizerBase) -> Wording:
    """The mini models' own wording, as in `longrecipe.data.facts`: ` Note: KEY NN.`, then ` Recall: KEY`.

    Each of these words is one token.
    """
    strings = token_strings(tokenizer)
    keys, values = tuple(filter(is_key, strings)), tuple(filter(is_value, strings))
    return Wording("planted", *_coder(tokenizer), keys=keys, values=values)


def sentences(tokenizer: PreTrainedTokenizerBase, text: str, seed: int = 0) -> Wording:
    """Plain English for any tokenizer: keys are words of the text (5 letters and more), values seven-digit numbers.

    Words and numbers that do not have the most common token count are left out. Raises ValueError if fewer than 64
    words are left.
    """
    encode, decode = _coder(tokenizer)
    rng = np.random.default_rng(seed)
    words = [f" {word}" for word, count in Counter(re.findall(r"\b[a-z]{5,}\b", text)).most_common(2000) if count > 1]
    numbers = [f" {number}" for number in rng.choice(np.arange(1_000_000, 10_000_000), 1000, replace=False)]
    keys, values = _of_one_length(words, encode), _of_one_length(numbers, encode)
    if len(keys) < 64:
        raise ValueError(f"the text has {len(keys)} words of one token count; the tasks need 64: give a longer text.")
    return Wording("sentences", encode, decode, keys=keys, values=values)


def _coder(tokenizer: PreTrainedTokenizerBase) -> tuple[Callable[[str], np.ndarray], Callable[[np.ndarray], str]]:
    # After a letter, because some tokenizers put a blank before the first word of a text. Not after a full stop: `..`
    # and `.` with a newline are one token in many vocabularies, so the full stop that ends an answer would be lost.
    before = tokenizer("a", add_special_tokens=False)["input_ids"]

    def encode(text: str) -> np.ndarray:
        ids = tokenizer("a" + text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids[len(before) :], dtype=np.int64)

    return encode, lambda ids: tokenizer.decode(ids)


def _of_one_length(texts: list[str], encode: Callable[[str], np.ndarray]) -> tuple[str, ...]:
    lengths = [len(encode(text)) for text in texts]
    common = Counter(lengths).most_common(1)[0][0] if lengths else 0
    return tuple(text for text, length in zip(texts, lengths, strict=True) if length == common)
