"""RULER-like tasks (Hsieh et al. 2024, arXiv 2404.06654) made from any text and tokenizer, nothing downloaded.

Each maker gives one document of a length and the questions asked about it. The length counts the longest prompt,
answers included.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from longrecipe.data.facts import hide
from longrecipe.evaluate.wording import Wording

# What passkeys are hidden in, over and over.
NOISE = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NIAH_M = ("multi-key", "multi-value", "multi-query")


@dataclass(frozen=True)
class Question:
    """A question and all its right answers, as ids; depth in 0..1 of what is asked for, NaN where it has no place."""

    task: str
    ids: np.ndarray
    answers: tuple[np.ndarray, ...]
    depth: float = float("nan")


@dataclass(frozen=True)
class Document:
    """A text, ids int64 [n], with questions that are asked apart, and turns that are asked in one conversation."""

    ids: np.ndarray
    questions: tuple[Question, ...]
    turns: tuple[Question, ...] = ()


Maker = Callable[[Wording, np.ndarray, int, np.random.Generator], Document]


def single(wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator) -> Document:
    """One fact hidden in text, asked for. Raises ValueError where it does not fit the length."""
    return _needles(wording, source, length, rng, n_keys=1, n_values=0, task="single")


def passkey(wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator) -> Document:
    """One fact hidden in a passage that is repeated, that of Mohtashami & Jaggi (2023, arXiv 2305.16300); fact and
    question are those of the wording. source is not read. Raises ValueError where the fact does not fit the length.
    """
    return _needles(wording, wording.encode(NOISE), length, rng, n_keys=1, n_values=0, task="passkey")


def needles(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, n_keys: int = 4, n_values: int = 4
) -> Document:
    """NIAH(M) in one document: n_keys keys with a value each, and one more key with n_values values at n_values places.

    multi-key: each key asked by itself; multi-query: all of them in one conversation; multi-value: the values of the
    last key. Raises ValueError where the facts do not fit the length.
    """
    return _needles(wording, source, length, rng, n_keys, n_values, "multi-key")


def tracking(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, n_names: int = 4, n_chains: int = 2
) -> Document:
    """Variable tracking: chains in which one key gets a value, the next key that of the one before it, and so on.

    Asked for: all n_names keys that have the value of the first chain. Statements of a chain stand in its order.
    Raises ValueError where the chains do not fit the length.
    """
    names = rng.choice(wording.keys, size=(n_chains, n_names), replace=False)
    values = rng.choice(wording.values, size=n_chains, replace=False)
    chains = [
        [wording.encode(wording.note.format(key=chain[0], value=value))]
        + [wording.encode(wording.link.format(key=k, other=o)) for k, o in zip(chain[1:], chain, strict=False)]
        for chain, value in zip(names, values, strict=True)
    ]
    which = wording.which.format(value=values[0])
    answers = tuple(wording.answer(which, name) for name in names[0])
    question = Question("variable tracking", wording.encode(which), answers)
    # Which chain each of the places belongs to; inside a chain the order stays.
    order = rng.permutation(np.repeat(np.arange(n_chains), n_names))
    left = [iter(chain) for chain in chains]
    statements = [next(left[chain]) for chain in order]
    tail = len(question.ids) + sum(map(len, answers))
    ids, _ = hide(source, statements, length - tail, rng, shuffle=False)
    return Document(ids, (question,))


def common_words(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, n_common: int = 4, times: int = 4
) -> Document:
    """A list of words in random order, n_common of them at least `times` times as frequent as the others, to be named.

    The list has as many different words as make the others occur 3 times each, at most all there are.
    Raises ValueError where the list is too short for two kinds of words.
    """
    question = wording.encode(wording.common)
    size = len(wording.answer(wording.common, wording.keys[0]))
    room = (length - len(question) - n_common * size) // size
    others = min(len(wording.keys) - n_common, room // 3 - n_common * times)
    if others < n_common:
        raise ValueError(f"a list of {length} tokens has no room for {n_common} common words and as many others.")
    words = rng.choice(wording.keys, size=n_common + others, replace=False)
    # Round after round of all words until the list is full: where that is inside a round, the common ones come first.
    listed = rng.permutation(np.resize(np.r_[np.tile(words[:n_common], times), words[n_common:]], room))
    answers = tuple(wording.answer(wording.common, word) for word in words[:n_common])
    return Document(wording.encode("".join(listed)), (Question("common words", question, answers),))


def _needles(
    wording: Wording,
    source: np.ndarray,
    length: int,
    rng: np.random.Generator,
    n_keys: int,
    n_values: int,
    task: str,
) -> Document:
    keys = rng.choice(wording.keys, size=n_keys + 1, replace=False)
    values = rng.choice(wording.values, size=n_keys + n_values, replace=False)
    owners = [*keys[:n_keys], *[keys[-1]] * n_values]
    statements = [wording.encode(wording.note.format(key=k, value=v)) for k, v in zip(owners, values, strict=True)]
    asked = [wording.ask.format(key=key) for key in keys[:n_keys]]
    answers = [wording.answer(text, value) for text, value in zip(asked, values, strict=False)]
    turns = [wording.encode(text) for text in asked]
    ask_all = wording.ask_all.format(key=keys[-1])
    every = tuple(wording.answer(ask_all, value) for value in values[n_keys:])
    conversation = sum(map(len, turns)) + sum(map(len, answers)) + (n_keys - 1) * len(wording.encode(wording.close))
    tail = max(conversation, len(wording.encode(ask_all)) + sum(map(len, every)) if every else 0)
    ids, depths = hide(source, statements, length - tail, rng)
    found = list(zip(turns, answers, depths, strict=False))
    questions = [Question(task, turn, (answer,), depth) for turn, answer, depth in found]
    if n_values:
        questions.append(Question("multi-value", wording.encode(ask_all), every))
    in_turn = [Question("multi-query", turn, (answer,), depth) for turn, answer, depth in found if n_keys > 1]
    return Document(ids, tuple(questions), tuple(in_turn))


# RULER's tasks that are no part of NIAH(M), each with documents of its own.
OTHERS: dict[str, Maker] = {"single": single, "variable tracking": tracking, "common words": common_words}
