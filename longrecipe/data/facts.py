"""Planted facts: short statements hidden in long text, and later recalls of them.

A fact reads ` Note: KEY NN.` and a recall ` Recall: KEY NN.`. KEY is a whole-word token and NN a two-digit number that
is one token. This gives long-range dependence that is real, exact and cheap to measure. It is also kind to methods that
look for numbers, as all numbers are facts: `fact_format` can take words as values, and `distracted` adds other numbers.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.corpus import excerpt
from longrecipe.data.sentences import SentenceEnds, token_strings

# Tokens of text between two statements, at least and at most.
FILLER = (16, 80)


@dataclass(frozen=True)
class FactFormat:
    """Token ids of the parts of facts: the opening words, the stop at the end, and the possible keys and values."""

    note: np.ndarray
    recall: np.ndarray
    stop: np.ndarray
    keys: np.ndarray
    values: np.ndarray

    def statement(self, opening: np.ndarray, key: int, value: int) -> np.ndarray:
        """The ids of ` Note: KEY NN.` or ` Recall: KEY NN.`; opening is note or recall."""
        return np.concatenate([opening, [key, value], self.stop])


def is_key(text: str) -> bool:
    """Whether a token's text can be the key of a planted fact: a blank and a word of 4 letters or more."""
    return re.fullmatch(r" [a-z]{4,}", text) is not None


def is_value(text: str) -> bool:
    """Whether a token's text can be the value of a planted fact: a blank and a two-digit number."""
    return re.fullmatch(r" [1-9]\d", text) is not None


def keys_and_values(strings: Iterable[str], values: str = "numbers") -> tuple[list[int], list[int]]:
    """The tokens that can be keys and values of planted facts, as indices of their texts.

    With values `words` every second word is a value, and the others are keys.
    """
    strings = list(strings)
    words = [i for i, text in enumerate(strings) if is_key(text)]
    if values == "words":
        return words[::2], words[1::2]
    return words, [i for i, text in enumerate(strings) if is_value(text)]


def fact_format(tokenizer: PreTrainedTokenizerBase, values: str = "numbers") -> FactFormat:
    """The fact format of a tokenizer, with `numbers` or `words` as values. Raises ValueError if too few of
    them are single tokens."""
    keys, found = keys_and_values(token_strings(tokenizer), values)
    if len(keys) < 32 or len(found) < 32:
        kind = "two-digit numbers" if values == "numbers" else "words as values"
        raise ValueError(
            f"the tokenizer has {len(keys)} one-token words and {len(found)} one-token {kind}, but planted facts need "
            "32 of each: use the tokenizer that ships with the mini models."
        )
    parts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" Note:", " Recall:", ".")]
    return FactFormat(*(np.asarray(p, dtype=np.int64) for p in (*parts, keys, found)))


def distracted(source: np.ndarray, numbers: np.ndarray, share: float, *, rng: np.random.Generator) -> np.ndarray:
    """Text with numbers that belong to no fact, at random places.

    Args: source [n]; numbers, ids to draw from; share: how many are added for each statement of `document`, of which
    there is one in 48 tokens of source on average. Returns int64, longer than source.
    """
    count = round(share * len(source) / (sum(FILLER) / 2))
    places = rng.integers(0, len(source) + 1, size=count)
    return np.insert(np.asarray(source, dtype=np.int64), places, rng.choice(numbers, size=count))


def document(
    source: np.ndarray,
    facts: FactFormat,
    length: int,
    *,
    rng: np.random.Generator,
    filler: tuple[int, int] = FILLER,
    note_share: float = 0.25,
) -> np.ndarray:
    """A training document: running text with facts, and later recalls of these facts.

    There are filler[0] to filler[1] tokens of source between two statements. A note_share of the statements are facts:
    three in four have a new key, one in four gives another value to a known key. The others recall a random known key
    with one of its values. Returns int64 [length].
    """

    # rng.choice(values) draws the same, but copies all values into an array each time.
    def one_of(values: Sequence[int] | np.ndarray) -> int:
        return values[rng.integers(len(values))]

    parts, keys, known, total = [], [], {}, 0
    while total < length:
        parts.append(excerpt(source, int(rng.integers(filler[0], filler[1] + 1)), rng))
        if not known or rng.random() < note_share:
            again = known and rng.random() < 0.25
            key, value = one_of(keys if again else facts.keys), one_of(facts.values)
            if key not in known:
                keys.append(key)
            known.setdefault(key, []).append(value)
            parts.append(facts.statement(facts.note, key, value))
        else:
            key = one_of(keys)
            parts.append(facts.statement(facts.recall, key, one_of(known[key])))
        total += len(parts[-1]) + len(parts[-2])
    return np.concatenate(parts)[:length]


def hide(
    source: np.ndarray,
    needles: list[np.ndarray],
    length: int,
    *,
    rng: np.random.Generator,
    shuffle: bool = True,
    head: np.ndarray | None = None,
    ends: SentenceEnds | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hide needles at uniformly random places of a random stretch of source.

    Args: needles, arrays of ids; length in tokens, including the needles and the head; shuffle, whether the needles get
    a random order or keep their own; head: ids in front of the text; ends: the rule for the ends of sentences, to move
    each place to the nearest one. Returns ids int64 [length] and the depth of each needle: its first token's place as a
    share of the length. Raises ValueError if the needles do not fit.
    """
    before = np.zeros(0, dtype=np.int64) if head is None else head
    room = length - len(before) - sum(map(len, needles))
    if room < 0:
        raise ValueError(
            f"{len(needles)} facts need {length - room} tokens, but the haystack has {length}: hide fewer."
        )
    text, cuts = excerpt(source, room, rng), np.sort(rng.integers(0, room + 1, size=len(needles)))
    stops = np.flatnonzero(ends(text)) + 1 if ends is not None else np.zeros(0, dtype=np.int64)
    if len(stops):
        cuts = stops[np.abs(stops - cuts[:, None]).argmin(axis=1)]
    order = rng.permutation(len(needles)) if shuffle else np.arange(len(needles))
    parts, depths, done, total = [before], np.empty(len(needles)), 0, len(before)
    for cut, which in zip(cuts, order, strict=True):
        parts += [text[done:cut], needles[which]]
        depths[which] = (total + cut - done) / length
        total, done = total + cut - done + len(needles[which]), cut
    return np.concatenate([*parts, text[done:]]), depths


def quiz(
    source: np.ndarray, facts: FactFormat, length: int, *, n_facts: int, n_questions: int, rng: np.random.Generator
) -> np.ndarray:
    """A training sample that ends in questions: a haystack with n_facts facts, then n_questions recalls of random ones.

    Returns int64 [length].
    """
    pairs = [rng.choice(each, size=n_facts, replace=False) for each in (facts.keys, facts.values)]
    pairs = np.stack(pairs, axis=1)
    asked = [facts.statement(facts.recall, *pairs[i]) for i in rng.integers(0, n_facts, size=n_questions)]
    notes = [facts.statement(facts.note, *pair) for pair in pairs]
    ids, _ = hide(source, notes, length - sum(map(len, asked)), rng=rng)
    return np.concatenate([ids, *asked])


def short_sample(
    source: np.ndarray,
    facts: FactFormat,
    length: int,
    *,
    rng: np.random.Generator,
    fact_share: float = 0.7,
    repeat_share: float = 0.05,
) -> np.ndarray:
    """A sample of the mini models' general data: text with facts (document or quiz), repeated tokens, or plain text.

    Args: length in tokens; fact_share and repeat_share, the probabilities of the first two kinds. Returns int64
    [length].
    """
    kind = rng.random()
    if kind < repeat_share:
        parts, total = [], 0
        while total < length:
            parts += 2 * [rng.choice(source, size=int(rng.integers(8, length // 3 + 1)))]
            total += 2 * len(parts[-1])
        return np.concatenate(parts)[:length]
    if kind < repeat_share + fact_share:
        if rng.random() < 0.5:
            return document(source, facts, length, rng=rng, filler=(8, 40), note_share=0.5)
        n_facts = int(rng.integers(1, max(1, min(8, length // 24)) + 1))
        return quiz(source, facts, length, n_facts=n_facts, n_questions=int(rng.integers(1, 5)), rng=rng)
    return excerpt(source, length, rng)
