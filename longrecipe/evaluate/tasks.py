"""RULER-like tasks (Hsieh et al. 2024, arXiv 2404.06654) made from any text and tokenizer, without downloads.

A maker gives one document of a length and the questions that are asked about it. The length includes the longest
question and its answers. A new task is a maker, its phrases, and one entry of `TASKS`.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from longrecipe.data.facts import hide
from longrecipe.evaluate.association import association
from longrecipe.evaluate.questions import Document, Maker, question
from longrecipe.evaluate.wording import Phrase, Wording

# The text that passkeys are hidden in, repeated.
NOISE = " The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
# Tells a real model at the start what it will be asked.
OPENING = Phrase(
    "",
    " Some secret numbers are hidden in the following text. Remember them, because I will ask for them at the end.\n",
)
LIST_OPENING = Phrase(
    "",
    " Some words occur more often than others in the following list. Remember them, because I will ask for them at the "
    "end.\n",
)
# States a fact.
NOTE = Phrase(" Note:{key}{value}.", " One of the secret numbers for{key} is:{value}.")
# Asks for the one value of a key, and for all values of a key or of several.
ASK = Phrase(
    " Recall:{key}",
    "\nWhat is the secret number for{key} in the text above? The secret number for{key} in the text above is",
)
ASK_ALL = Phrase(
    " Recall:{key}",
    "\nWhat are all the secret numbers for{key} in the text above? The secret numbers for{key} in the text above are",
)
# Says that a key has the value of another key, and asks for all keys of a value.
LINK = Phrase(" Note:{key}{other}.", " The secret number for{key} is the secret number for{other}.")
WHICH = Phrase(
    " Recall:{value}",
    "\nWhich names have the secret number{value} in the text above? All names with the secret number{value} are",
)
# Asks for the most common words of a list.
COMMON = Phrase(" Recall:", "\nWhich words are the most common ones in the list? The most common words are")
# Ends an answer.
CLOSE = Phrase(".", ".")


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

    multi-key: each key asked by itself; multi-query: all of them in one question, or, of mini models, in one
    conversation; multi-value: the values of the last key. Raises ValueError if the facts do not fit into the length.
    """
    return _needles(wording, source, length, rng, n_keys=n_keys, n_values=n_values, task="multi-key")


def fact_counts(wording: Wording, n_facts: int) -> dict[str, int]:
    """n_keys and n_values of `needles` for n_facts facts that are asked one by one.

    Real models get at most as many values of the last key, because their sentences are long. Mini models always get 4.
    """
    return {"n_keys": n_facts, "n_values": 4 if wording.kind == "planted" else min(4, n_facts)}


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
    asked = question(wording, "variable tracking", wording.text(WHICH, value=values[0]), names[0])
    # The chain of each statement; inside a chain the order stays.
    order = rng.permutation(np.repeat(np.arange(n_chains), n_names))
    left = [iter(chain) for chain in chains]
    statements = [next(left[chain]) for chain in order]
    head = wording.opening(OPENING)
    ids, _ = hide(source, statements, length - asked.size, rng=rng, shuffle=False, head=head, ends=wording.ends)
    return Document(ids, (asked,))


def common_words(
    wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, *, n_common: int = 4, times: int = 4
) -> Document:
    """A list of words in random order; n_common of them occur at least `times` times as often as the others.

    The question asks for these. The list has as many different words as make the others occur 3 times each, at most
    all there are. Raises ValueError if the list is too short for two kinds of words.
    """
    common = wording.text(COMMON)
    head = wording.opening(LIST_OPENING)
    room = length - len(head) - question(wording, "common words", common, wording.keys[:n_common]).size
    room //= len(wording.encode(wording.keys[0]))
    others = min(len(wording.keys) - n_common, room // 3 - n_common * times)
    if others < n_common:
        raise ValueError(f"a list of {length} tokens has no room for {n_common} common words and as many others.")
    words = rng.choice(wording.keys, size=n_common + others, replace=False)
    # Rounds of all words until the list is full; the common ones come first in a round, as the last may be cut off.
    listed = rng.permutation(np.resize(np.r_[np.tile(words[:n_common], times), words[n_common:]], room))
    ids = np.concatenate([head, wording.encode("".join(listed))])
    return Document(ids, (question(wording, "common words", common, words[:n_common]),))


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
    alone = [
        question(wording, task, wording.text(ASK, key=key), [value])
        for key, value in zip(keys[:n_keys], values[:n_keys], strict=True)
    ]
    several, tail = [], 0
    if n_values:
        several.append(question(wording, "multi-value", wording.text(ASK_ALL, key=keys[-1]), values[n_keys:]))
    if n_keys > 1 and wording.kind == "sentences":
        listed = ",".join(keys[: n_keys - 1]) + " and" + keys[n_keys - 1]
        several.append(question(wording, "multi-query", wording.text(ASK_ALL, key=listed), values[:n_keys]))
    elif n_keys > 1:
        # The mini models only know questions for one key: all are asked in one conversation.
        tail = sum(each.size for each in alone) + (n_keys - 1) * len(wording.encode(wording.text(CLOSE)))
    tail = max(tail, *(each.size for each in (*alone, *several)))
    ids, depths = hide(source, statements, length - tail, rng=rng, head=wording.opening(OPENING), ends=wording.ends)
    asked = [replace(each, depth=depth) for each, depth in zip(alone, depths, strict=False)]
    turns = [replace(each, task="multi-query") for each in asked if n_keys > 1 and wording.kind == "planted"]
    return Document(ids, (*asked, *several), tuple(turns))


@dataclass(frozen=True)
class Task:
    """A task: how its documents are made, when it is asked, and the scores that it is part of.

    stream: the number of its random stream; tasks with one number share their documents. asked: "always" is at every
    length, "on request" at the shortest and the longest if it is asked for by name, "passkeys" at every length if
    passkeys are asked for. single_answer: one question for each document, right or wrong, so the interval is Wilson's.
    mini: whether the mini models can be asked. niah_m, ruler: whether it is part of NIAH(M), and of the RULER-like
    score.
    """

    make: Maker
    stream: int
    asked: Literal["always", "on request", "passkeys"] = "on request"
    single_answer: bool = False
    mini: bool = True
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
    "association": Task(association, stream=5, single_answer=True, mini=False),
}
NIAH_M = tuple(name for name, task in TASKS.items() if task.niah_m)
RULER = tuple(name for name, task in TASKS.items() if task.ruler)
OTHERS = tuple(name for name, task in TASKS.items() if task.asked == "on request")


def others(wording: Wording) -> tuple[str, ...]:
    """The tasks of OTHERS that a model can be asked in a wording."""
    return tuple(name for name in OTHERS if TASKS[name].mini or wording.kind == "sentences")
