"""A document of a task, and the questions that are asked about it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from longrecipe.evaluate.wording import Wording


@dataclass(frozen=True)
class Question:
    """A question and all its right answers, as ids; depth in 0..1 of the fact that it asks for, NaN if it has none.

    n_tokens: length of the greedy continuation in which the answers are looked for, in any order; 0 if they must be the
    most likely next tokens.
    """

    task: str
    ids: np.ndarray
    answers: tuple[np.ndarray, ...]
    depth: float = float("nan")
    n_tokens: int = 0

    @property
    def size(self) -> int:
        """Tokens of the question with what follows it: the continuation, or the answers."""
        return len(self.ids) + max(self.n_tokens, sum(map(len, self.answers)))


@dataclass(frozen=True)
class Document:
    """A text, ids int64 [n], with questions that are asked one by one, and turns that are asked in one conversation."""

    ids: np.ndarray
    questions: tuple[Question, ...]
    turns: tuple[Question, ...] = ()


Maker = Callable[[Wording, np.ndarray, int, np.random.Generator], Document]


def question(wording: Wording, task: str, text: str, answers: Iterable[str]) -> Question:
    """A question with its answers as they are tokenised after it."""
    ids = tuple(wording.answer(text, answer) for answer in answers)
    return Question(task, wording.encode(text), ids, n_tokens=wording.n_tokens(ids))
