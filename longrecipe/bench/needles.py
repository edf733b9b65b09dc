"""Prompts of this kit's own needles, as rows of lm-evaluation-harness: next to RULER's on the same models and text."""

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe import evaluate
from longrecipe.bench.haystack import Haystack
from longrecipe.bench.ruler import TooShortError
from longrecipe.evaluate.scoring import says

NEEDLES = evaluate.NIAH_M


def needle_rows(
    task: str, length: int, tokenizer: PreTrainedTokenizerBase, *, count: int, seed: int = 0, haystack: Haystack
) -> list[dict[str, Any]]:
    """The prompts of one task at one length: input, gen_prefix, outputs, max_length and generated (tokens of the
    answer).

    Each has a document of its own, made by `evaluate.needles`, and the first of its questions of the task. A prompt and
    its answer have at most the length, and nearly so if the question is not among the shorter ones of the document. The
    text around the facts is from the beginning of the haystack, as in RULER. The first rows do not depend on `count`.

    Args:
        task: a name of NEEDLES.
        length: in tokens, the generated ones included.
        haystack: the text that the facts are hidden in.

    Raises TooShortError if the length has no room for the facts.
    """
    wording = evaluate.sentences(tokenizer)
    # A word has at least one token.
    source = wording.encode(" " + " ".join(haystack.words[:length]))
    rows = []
    for number in range(count):
        rng = np.random.default_rng([seed, length, NEEDLES.index(task), number])
        try:
            document = evaluate.needles(wording, source, length, rng)
        except ValueError as error:
            raise TooShortError(
                f"a length of {length} tokens is too short for {task}: give a longer one, or leave out the task."
            ) from error
        asked = next(each for each in document.questions if each.task == task)
        question, mark, begun = wording.decode(asked.ids).partition("?")
        rows.append(
            {
                "input": wording.decode(document.ids) + question + mark,
                "gen_prefix": begun.strip(),
                "outputs": [wording.decode(answer).strip() for answer in asked.answers],
                "max_length": length,
                "generated": asked.n_tokens,
            }
        )
    return rows


def score(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """The share of references that an answer contains as whole words, from 0 to 1."""
    return {"score": float(np.mean([says(answers[0], reference) for reference in row["outputs"]]))}
