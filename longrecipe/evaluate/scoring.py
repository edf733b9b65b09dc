"""Ask a model the questions of the tasks: one row for each prompt; means with 95 % intervals over documents."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from longrecipe import stats
from longrecipe.evaluate.questions import Document, Maker, Question
from longrecipe.evaluate.reader import Reader, texts_at_once
from longrecipe.evaluate.tasks import CLOSE, TASKS
from longrecipe.evaluate.wording import Wording

COLUMNS = ["task", "length", "document", "depth", "score"]


@torch.inference_mode()
def ask(
    network: PreTrainedModel,
    wording: Wording,
    make: Maker,
    *,
    source: np.ndarray,
    length: int,
    n_documents: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Make documents of a task and ask the model all their questions; documents are read in batches, once each.

    A question with k answers scores the share of them that the model gives. Real models say them anywhere in a greedy
    continuation of `Question.n_tokens`, as whole words, in any order and letter case. Mini models, whose answers are
    single tokens, must give them the k largest logits. In a conversation the model's own answers stay in the context.

    Args: source int64 ids of held-out text; length in tokens, answers included. Returns one row for each prompt: task,
    length, document, depth (0 = start of the text, 1 = its end), score in 0..1. Raises ValueError if the length is too
    short.
    """
    rows, size = [], texts_at_once(network, length)
    for start in range(0, n_documents, size):
        documents = [make(wording, source, length, rng) for _ in range(min(size, n_documents - start))]
        reader = Reader(network, np.stack([document.ids for document in documents]))
        asked = [(questions, _scores(reader, questions, wording)) for questions in _columns(documents, "questions")]
        turns = _columns(documents, "turns")
        if turns:
            close = wording.encode(wording.text(CLOSE))
            given = reader.converse([_ids(t) for t in turns], len(turns[0][0].answers[0]), close)
            asked += [(turn, _equal(given[:, i], turn)) for i, turn in enumerate(turns)]
        rows += [
            (question.task, length, start + i, question.depth, score)
            for questions, scores in asked
            for i, (question, score) in enumerate(zip(questions, scores, strict=True))
        ]
        # The next texts need its memory.
        del reader
    return pd.DataFrame(rows, columns=COLUMNS)


def _columns(documents: list[Document], name: str) -> list[tuple[Question, ...]]:
    """The first questions of all documents together, the second ones, and so on: they are of one form."""
    return list(zip(*(getattr(document, name) for document in documents), strict=True))


def _ids(questions: tuple[Question, ...]) -> np.ndarray:
    return np.stack([question.ids for question in questions])


def _equal(given: np.ndarray, questions: tuple[Question, ...]) -> np.ndarray:
    return (given == np.stack([question.answers[0] for question in questions])).all(axis=1).astype(float)


def _scores(reader: Reader, questions: tuple[Question, ...], wording: Wording) -> np.ndarray:
    ids, answers = _ids(questions), [question.answers for question in questions]
    if not questions[0].n_tokens:
        top = reader.ask(ids)[:, -1].topk(len(answers[0])).indices.cpu().numpy()
        return np.array([np.isin([a[0] for a in each], row).mean() for each, row in zip(answers, top, strict=True)])
    texts = [wording.decode(row) for row in reader.generate(ids, questions[0].n_tokens)]
    return np.array(
        [np.mean([says(text, wording.decode(a)) for a in each]) for each, text in zip(answers, texts, strict=True)]
    )


def says(text: str, answer: str) -> bool:
    """Whether a text has an answer as whole words, in any letter case: `12345678` does not have `1234567`."""
    return re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", text, re.IGNORECASE) is not None


def interval(frame: pd.DataFrame, rng: np.random.Generator, *, level: float = 0.95, draws: int = 2000) -> stats.Triple:
    """Mean score and its percentile bootstrap interval over documents. Returns mean, low, high.

    Prompts about one document share its text, so only documents are independent. Every document must have been asked
    every task of the frame.
    """
    return stats.bootstrap(document_scores(frame), rng, level, draws=draws)


def document_scores(frame: pd.DataFrame) -> np.ndarray:
    """The score of each document, float [D]: the mean of its tasks' means, NaN if it was not asked every task."""
    return frame.groupby(["document", "task"])["score"].mean().unstack().mean(axis=1, skipna=False).to_numpy()


def cell(frame: pd.DataFrame, rng: np.random.Generator) -> dict[str, float]:
    """Mean score of rows with its 95 % interval and the number of prompts, by the names mean, low, high, prompts.

    For tasks with a single answer the interval is Wilson's: a bootstrap has no width if all answers are right.
    """
    single = frame["task"].isin([name for name, task in TASKS.items() if task.single_answer]).all()
    triple = stats.wilson(int(frame["score"].sum()), len(frame)) if single else interval(frame, rng)
    return dict(zip(("mean", "low", "high"), triple, strict=True)) | {"prompts": len(frame)}


def hits(cells: Iterable[Mapping[str, float]]) -> str:
    """Right answers of all prompts of some cells, as `7 of 8`: for tasks with a single answer."""
    pairs = [(each["mean"] * each["prompts"], each["prompts"]) for each in cells]
    return f"{round(sum(right for right, _ in pairs))} of {sum(count for _, count in pairs)}"
