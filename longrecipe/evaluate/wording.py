"""How the long-context tasks are put into words: planted facts for the mini models, sentences for any tokenizer."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.facts import is_key, is_value
from longrecipe.data.sentences import token_strings


@dataclass(frozen=True)
class Wording:
    """The texts of all tasks, with {key}, {value} and {other} to fill in, and the keys and values to draw from.

    note states a fact, ask asks for its one value, ask_all for all values of a key, link says that one key has the
    value of another, which asks for all keys of a value, common asks for the most common words of a list; close ends an
    answer. Every key takes the same number of tokens, and so does every value: prompts of one task are equally long.
    """

    encode: Callable[[str], np.ndarray]
    decode: Callable[[np.ndarray], str]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    note: str
    ask: str
    ask_all: str
    link: str
    which: str
    common: str
    close: str

    def answer(self, question: str, text: str) -> np.ndarray:
        """Ids of an answer as it is tokenised after its question."""
        return self.encode(question + text)[len(self.encode(question)) :]


def planted(tokenizer: PreTrainedTokenizerBase) -> Wording:
    """The mini models' own wording, as in `longrecipe.data.facts`: ` Note: KEY NN.`, then ` Recall: KEY`, one token
    each."""
    strings = token_strings(tokenizer)
    return Wording(
        *_coder(tokenizer),
        keys=tuple(filter(is_key, strings)),
        values=tuple(filter(is_value, strings)),
        note=" Note:{key}{value}.",
        ask=" Recall:{key}",
        ask_all=" Recall:{key}",
        link=" Note:{key}{other}.",
        which=" Recall:{value}",
        common=" Recall:",
        close=".",
    )


def sentences(tokenizer: PreTrainedTokenizerBase, text: str, seed: int = 0) -> Wording:
    """Plain English for any tokenizer: keys are words of the text (5 letters and more), values seven-digit numbers.

    Of both, those of the commonest token count are kept. Raises ValueError where fewer than 64 words are left.
    """
    encode, decode = _coder(tokenizer)
    rng = np.random.default_rng(seed)
    words = [f" {word}" for word, count in Counter(re.findall(r"\b[a-z]{5,}\b", text)).most_common(2000) if count > 1]
    numbers = [f" {number}" for number in rng.choice(np.arange(1_000_000, 10_000_000), 1000, replace=False)]
    keys, values = _of_one_length(words, encode), _of_one_length(numbers, encode)
    if len(keys) < 64:
        raise ValueError(f"the text has {len(keys)} words of one token count; the tasks need 64: give a longer text.")
    return Wording(
        encode,
        decode,
        keys=keys,
        values=values,
        note=" The secret number of{key} is{value}.",
        ask="\nWhat is the secret number of{key}? The secret number of{key} is",
        ask_all="\nWhich secret numbers does{key} have? The secret numbers of{key} are",
        link=" The secret number of{key} is the secret number of{other}.",
        which="\nWhich words have the secret number{value}? The words are",
        common="\nWhich words are the most common ones in the list? The most common words are",
        close=".",
    )


def _coder(tokenizer: PreTrainedTokenizerBase) -> tuple[Callable[[str], np.ndarray], Callable[[np.ndarray], str]]:
    # After a letter, because some tokenizers put a blank before a text's first word. Not after a full stop: `..` and
    # `.` with a newline are one token in many vocabularies, so that the full stop of `close` would vanish.
    before = tokenizer("a", add_special_tokens=False)["input_ids"]

    def encode(text: str) -> np.ndarray:
        ids = tokenizer("a" + text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids[len(before) :], dtype=np.int64)

    return encode, lambda ids: tokenizer.decode(ids)


def _of_one_length(texts: list[str], encode: Callable[[str], np.ndarray]) -> tuple[str, ...]:
    lengths = [len(encode(text)) for text in texts]
    common = Counter(lengths).most_common(1)[0][0] if lengths else 0
    return tuple(text for text, length in zip(texts, lengths, strict=True) if length == common)
