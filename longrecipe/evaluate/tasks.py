"""RULER-like tasks (Hsieh et al. 2024, arXiv 2404.06654) made from any text and tokenizer, without downloads.

A maker gives one document of a length and the questions that are asked about it. The length includes the longest
question and its answers. A new task is a maker, its phrases, and one entry of `TASKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from longrecipe.data.facts import hide
from longrecipe.evaluate.wording import Phrase, Wording

# The text that passkeys are hidden in, repeated.
NOISE = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# States a fact.
NOTE = Phrase(" Note:{key}{value}.", " The secret number of{key} is{value}.")
# Asks for the one value of a key, and for all values of a key.
ASK = Phrase(" Recall:{key}", "\nWhat is the secret number of{key}? The secret number of{key} is")
ASK_ALL = Phrase(" Recall:{key}", "\nWhich secret numbers does{key} have? The secret numbers of{key} are")
# Says that a key has the value of another key, and asks for all keys of a value.
LINK = Phrase(" Note:{key}{other}.", " The secret number of{key} is the secret number of{other}.")
WHICH = Phrase(" Recall:{value}", "\nWhich words have the secret number{value}? The words are")
# Asks for the most common words of a list.
COMMON = Phrase(" Recall:", "\nWhich words are the most common ones in the list? The most common words are")
# Ends an answer.
CLOSE = Phrase(".", ".")


@dataclass(frozen=True)
class Question:
    """A question and all its right answers, as ids; depth in 0..1 of the fact that it asks for, NaN if it has none."""

    task: str
    ids: np.ndarray
    answers: tuple[np.ndarray, ...]
    depth: float = float("nan")


@dataclass(frozen=True)
class Document:
    """A text, ids int64 [n], with questions that are asked one by one, and turns that are asked in one conversation."""

    ids: np.ndarray
    questions: tuple[Question, ...]
    turns: tuple[Question, ...] = ()


Maker = Callable[[Wording, np.ndarray, int, np.random.Generator], Document]


def single(wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator) -> Document:
    """One fact hidden in text. Raises ValueError if it does not fit into the length."""
    return _needles(wording, source, length, rng, n_keys=1, n_values=0, task="single")


def passkey(wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator) -> Document:
    """One fact hidden in a repeated passage, that of Mohtashami & Jaggi (2023, arXiv 2305.16300).

    Fact and question are those of the wording; source is not used. Raises ValueError if the fact does not fit into the
    length.
    """
    return _needles(wording, wording.encode(NOISE), length, rng, n_keys=1, n_values=0, task="passkey")


def needles(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, *, n_keys: int = 4, n_values: int = 4
) -> Document:
    """NIAH(M) in one document: n_keys keys with a value each, and one more key with n_values values at n_values places.

    multi-key: each key asked by itself; multi-query: all of them in one conversation; multi-value: the values of the
    last key. Raises ValueError if the facts do not fit into the length.
    """
    return _needles(wording, source, length, rng, n_keys=n_keys, n_values=n_values, task="multi-key")


def tracking(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, *, n_names: int = 4, n_chains: int = 2
) -> Document:
    """Variable tracking: in a chain the first key gets a value, and each further key that of the key before it.

    The question asks for all n_names keys with the value of the first chain. The statements of a chain keep their
    order. Raises ValueError if the chains do not fit into the length.
    """
    names = rng.choice(wording.keys, size=(n_chains, n_names), replace=False)
    values = rng.choice(wording.values, size=n_chains, replace=False)
    chains = [
        [wording.encode(wording.text(NOTE, key=chain[0], value=value))]
        + [wording.encode(wording.text(LINK, key=k, other=o)) for k, o in zip(chain[1:], chain, strict=False)]
        for chain, value in zip(names, values, strict=True)
    ]
    which = wording.text(WHICH, value=values[0])
    answers = tuple(wording.answer(which, name) for name in names[0])
    question = Question("variable tracking", wording.encode(which), answers)
    # The chain of each statement; inside a chain the order stays.
    order = rng.permutation(np.repeat(np.arange(n_chains), n_names))
    left = [iter(chain) for chain in chains]
    statements = [next(left[chain]) for chain in order]
    tail = len(question.ids) + sum(map(len, answers))
    ids, _ = hide(source, statements, length - tail, rng=rng, shuffle=False)
    return Document(ids, (question,))


def common_words(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, *, n_common: int = 4, times: int = 4
) -> Document:
    """A list of words in random order; n_common of them occur at least `times` times as often as the others.

    The question asks for these. The list has as many different words as make the others occur 3 times each, at most
    all there are. Raises ValueError if the list is too short for two kinds of words.
    """
    common = wording.text(COMMON)
    question = wording.encode(common)
    size = len(wording.answer(common, wording.keys[0]))
    room = (length - len(question) - n_common * size) // size
    others = min(len(wording.keys) - n_common, room // 3 - n_common * times)
    if others < n_common:
        raise ValueError(f"a list of {length} tokens has no room for {n_common} common words and as many others.")
    words = rng.choice(wording.keys, size=n_common + others, replace=False)
    # Rounds of all words until the list is full; the common ones come first in a round, as the last may be cut off.
    listed = rng.permutation(np.resize(np.r_[np.tile(words[:n_common], times), words[n_common:]], room))
    answers = tuple(wording.answer(common, word) for word in words[:n_common])
    return Document(wording.encode("".join(listed)), (Question("common words", question, answers),))


def _needles(
    wording: Wording,
    source: np.ndarray,
    length: int,
    rng: np.random.Generator,
    *,
    n_keys: int,
    n_values: int,
    task: str,
) -> Document:
    keys = rng.choice(wording.keys, size=n_keys + 1, replace=False)
    values = rng.choice(wording.values, size=n_keys + n_values, replace=False)
    owners = [*keys[:n_keys], *[keys[-1]] * n_values]
    statements = [wording.encode(wording.text(NOTE, key=k, value=v)) for k, v in zip(owners, values, strict=True)]
    asked = [wording.text(ASK, key=key) for key in keys[:n_keys]]
    answers = [wording.answer(text, value) for text, value in zip(asked, values, strict=False)]
    turns = [wording.encode(text) for text in asked]
    ask_all = wording.text(ASK_ALL, key=keys[-1])
    every = tuple(wording.answer(ask_all, value) for value in values[n_keys:])
    close = wording.encode(wording.text(CLOSE))
    conversation = sum(map(len, turns)) + sum(map(len, answers)) + (n_keys - 1) * len(close)
    tail = max(conversation, len(wording.encode(ask_all)) + sum(map(len, every)) if every else 0)
    ids, depths = hide(source, statements, length - tail, rng=rng)
    found = list(zip(turns, answers, depths, strict=False))
    questions = [Question(task, turn, (answer,), depth) for turn, answer, depth in found]
    if n_values:
        questions.append(Question("multi-value", wording.encode(ask_all), every))
    in_turn = [Question("multi-query", turn, (answer,), depth) for turn, answer, depth in found if n_keys > 1]
    return Document(ids, tuple(questions), tuple(in_turn))


@dataclass(frozen=True)
class Task:
    """A task: how its documents are made, when it is asked, and the scores that it is part of.

    stream: the number of its random stream; tasks with one number share their documents. asked: "always" is at every
    length, "on request" at the shortest and the longest if it is asked for by name, "passkeys" at every length if
    passkeys are asked for. single_answer: one question for each document, right or wrong, so the interval is Wilson's.
    niah_m, ruler: whether it is part of NIAH(M), and of the RULER-like score.
    """

    make: Maker
    stream: int
    asked: Literal["always", "on request", "passkeys"] = "on request"
    single_answer: bool = False
    niah_m: bool = False
    ruler: bool = False


_NIAH = Task(needles, stream=0, asked="always", niah_m=True, ruler=True)
# The RULER-like score consists of the tasks that the mini base models solve inside their own window.
TASKS: dict[str, Task] = {
    "single": Task(single, stream=1, single_answer=True, ruler=True),
    "multi-key": _NIAH,
    "multi-value": _NIAH,
    "multi-query": _NIAH,
    "variable tracking": Task(tracking, stream=2),
    "common words": Task(common_words, stream=3),
    "passkey": Task(passkey, stream=4, asked="passkeys", single_answer=True),
}
NIAH_M = tuple(name for name, task in TASKS.items() if task.niah_m)
RULER = tuple(name for name, task in TASKS.items() if task.ruler)
OTHERS = tuple(name for name, task in TASKS.items() if task.asked == "on request")
