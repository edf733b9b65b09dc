"""Why a real model finds more or fewer needles: the same facts, from the former wording to today's, step by step.

The former wording hid facts anywhere in text with its line breaks, named them by words of that text, did not announce
the questions, and stated `The secret number of object is 1234567.`
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.evaluate import Document, Phrase, Wording, ask, interval, needles, sentences
from longrecipe.evaluate.tasks import ASK, ASK_ALL, NOTE, OPENING
from longrecipe.evaluate.wording import of_one_length

_SENTENCES = {
    NOTE: " The secret number of{key} is{value}.",
    ASK: "\nWhat is the secret number of{key}? The secret number of{key} is",
    ASK_ALL: "\nWhich secret numbers does{key} have? The secret numbers of{key} are",
}
_SILENT = {OPENING: ""}


@dataclass(frozen=True)
class Variant:
    """A wording to compare.

    changed: phrases with other texts. line_breaks: facts are hidden anywhere in text as it is, instead of between the
    sentences of text on one line. text_words: keys are words of the text, instead of an adjective and a noun. apart:
    the facts of multi-value have a document of their own, so a document has 4 facts instead of 8.
    """

    changed: Mapping[Phrase, str] = field(default_factory=dict)
    line_breaks: bool = False
    text_words: bool = False
    apart: bool = False


VARIANTS = {
    "former wording": Variant(_SENTENCES | _SILENT, line_breaks=True, text_words=True),
    "and text on one line": Variant(_SENTENCES | _SILENT, text_words=True),
    "and names that are not in the text": Variant(_SENTENCES | _SILENT),
    "and an opening that announces the questions": Variant(_SENTENCES),
    "and new sentences: today's wording": Variant(),
    "today's, text with line breaks": Variant(line_breaks=True),
    "today's, 4 facts in a document": Variant(apart=True),
}


def measure(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: np.ndarray,
    *,
    length: int = 2048,
    n_documents: int = 4,
    seed: int = 0,
    variants: Iterable[str] = tuple(VARIANTS),
) -> pd.DataFrame:
    """Scores of a model by variant and task. All variants hide 4 facts with a name each and 4 of one more name.

    Besides the tasks of NIAH(M) the table has `four turns`: the keys of multi-query asked one after the other in one
    conversation, with the exact tokens of the numbers, as in the former wording.

    Args: source int64 ids of held-out text; length in tokens; variants, of VARIANTS.
    Returns a row for each variant and task: variant, task, mean, low, high (95 % bootstrap interval over documents),
    documents and length. Raises ValueError for an unknown variant, and if the facts do not fit into the length.
    """
    variants = list(variants)
    if unknown := set(variants) - set(VARIANTS):
        raise ValueError(f"variants = {sorted(unknown)}: allowed are {', '.join(VARIANTS)}.")
    rows = []
    for name in variants:
        variant = VARIANTS[name]
        wording, text = _wording(variant, tokenizer, source)
        for group in ({"n_values": 0}, {"n_keys": 0}) if variant.apart else ({},):
            make, rng = partial(_in_turns, **group), np.random.default_rng([seed, length])
            asked = ask(network, wording, make, source=text, length=length, n_documents=n_documents, rng=rng)
            for task, prompts in asked.groupby("task", sort=False):
                rows.append((name, task, *interval(prompts, np.random.default_rng(0)), n_documents, length))
    return pd.DataFrame(rows, columns=["variant", "task", "mean", "low", "high", "documents", "length"])


def _wording(variant: Variant, tokenizer: PreTrainedTokenizerBase, source: np.ndarray) -> tuple[Wording, np.ndarray]:
    """The wording of a variant, and the text that it hides facts in."""
    wording = replace(sentences(tokenizer), changed=variant.changed)
    if variant.text_words:
        words = Counter(re.findall(r"\b[a-z]{5,}\b", tokenizer.decode(source.tolist()))).most_common(2000)
        keys = of_one_length([f" {word}" for word, count in words if count > 1], wording.encode)
        wording = replace(wording, keys=keys)
    if variant.line_breaks:
        return replace(wording, ends=None), source
    return wording, wording.haystack(source)


def _in_turns(wording: Wording, source: np.ndarray, length: int, rng: np.random.Generator, **group: int) -> Document:
    """A document of `needles` whose questions for one key are also asked in one conversation."""
    document = needles(wording, source, length, rng, **group)
    turns = [replace(each, task="four turns") for each in document.questions if each.task == "multi-key"]
    return replace(document, turns=tuple(turns))
