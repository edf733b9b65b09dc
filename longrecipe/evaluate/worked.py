"""One worked question: the text with the fact in it, the question, the right answer and the model's."""

import html
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from longrecipe.evaluate.reader import Reader
from longrecipe.evaluate.tasks import TASKS, fact_counts, needles
from longrecipe.evaluate.wording import Wording


@dataclass(frozen=True)
class Worked:
    """A question about a fact in a text, and what a model answers. A notebook shows it with the fact marked.

    length: of text, question and answer in tokens. before, fact, after: the text. distance: tokens from the start of
    the fact to the answer. right: the right answer, and right_probability, which the model gives it; answer and
    answer_probability: the most likely answer.
    """

    length: int
    before: str
    fact: str
    after: str
    question: str
    distance: int
    right: str
    right_probability: float
    answer: str
    answer_probability: float

    @property
    def row(self) -> dict[str, str]:
        """The question without its text, as a row of a table."""
        return {
            "fact": self.fact.strip(),
            "tokens from fact to answer": f"{self.distance:,}",
            "question": self.question.strip(),
            "right answer": self.right.strip(),
            "probability of the right answer": f"{self.right_probability:.3f}",
            "the model's answer": self.answer.strip(),
            "probability of this answer": f"{self.answer_probability:.3f}",
        }

    def __repr__(self) -> str:
        return f"{self.before}[[{self.fact}]]{self.after}[[{self.question}]] -> {self.answer}"

    def _repr_html_(self) -> str:
        before, fact, after, question, answer = map(
            html.escape, (self.before, self.fact, self.after, self.question, self.answer)
        )
        return f"<p>{before}<mark>{fact}</mark>{after}<mark>{question}</mark> &rarr; <b>{answer}</b></p>"


@torch.inference_mode()
def worked(
    network: PreTrainedModel, wording: Wording, source: np.ndarray, *, length: int, n_facts: int = 4, seed: int = 0
) -> Worked:
    """The first question of the first document that `report` asks at a length, with the same seed and n_facts.

    Args: source int64 ids of held-out text; length in tokens. Raises ValueError if the facts do not fit into the
    length.
    """
    rng = np.random.default_rng([seed, length, TASKS["multi-key"].stream])
    document = needles(wording, wording.haystack(source), length, rng, **fact_counts(wording, n_facts))
    asked, (right,) = document.questions[0], document.questions[0].answers
    place = round(asked.depth * len(document.ids))
    text, wanted = wording.decode(document.ids[place:]), wording.decode(right)
    end = text.index(wanted) + len(wanted) + 1
    reader = Reader(network, document.ids[None])
    answer = reader.generate(asked.ids[None], len(right))[0]
    return Worked(
        length=length,
        before=wording.decode(document.ids[:place]),
        fact=text[:end],
        after=text[end:],
        question=wording.decode(asked.ids),
        distance=len(document.ids) - place + len(asked.ids),
        right=wanted,
        right_probability=_probability(reader, asked.ids, right),
        answer=wording.decode(answer),
        answer_probability=_probability(reader, asked.ids, answer),
    )


def worked_table(questions: Iterable[Worked]) -> pd.DataFrame:
    """Worked questions as a table, one row for each text length in tokens."""
    return pd.DataFrame({each.length: each.row for each in questions}).T.rename_axis("text length, tokens")


def _probability(reader: Reader, question: np.ndarray, answer: np.ndarray) -> float:
    """The probability that a model gives all tokens of an answer, one after the other."""
    logits = reader.ask(np.concatenate([question, answer[:-1]])[None], last=len(answer))[0]
    logp = logits.log_softmax(-1)[torch.arange(len(answer)), torch.from_numpy(answer).to(logits.device)]
    return float(logp.sum().exp())
