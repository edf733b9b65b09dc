"""The text of a run: where it comes from, and what can be checked before it is read."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe import models
from longrecipe.data import english
from longrecipe.data.corpus import Corpus
from longrecipe.data.facts import FactFormat, distracted, fact_format
from longrecipe.data.hubtext import check_hub_text, is_hub_text, load_hub_text
from longrecipe.data.sentences import SentenceEnds, sentence_ends
from longrecipe.data.textcheck import check_files
from longrecipe.data.textcolumns import NoColumnError
from longrecipe.data.textfiles import load_files
from longrecipe.settings import Params
from longrecipe.system.paths import split_revision, user_path


@dataclass(frozen=True)
class RunText:
    """The text of a run: long text, general text for replay, the format of planted facts (None: no facts are planted),
    and the rule for sentence ends."""

    long: Corpus
    general: Corpus
    facts: FactFormat | None
    ends: SentenceEnds


def load_text(params: Params, tokenizer: PreTrainedTokenizerBase) -> RunText:
    """Load the text of a run: files (paths are relative to the working directory), a dataset of a hub, or the embedded
    English, with planted facts at scale mini.

    Raises ValueError at scale mini if a text of your own is set, and the errors of `textfiles.load_files` and
    `hubtext.load_hub_text`.
    """
    is_planted = params.scale == "mini"
    _check_planted(params)
    if params.text is not None:
        long = _load(params.text, params, tokenizer)
    elif is_planted:
        long = _with_distractors(english.load_english(tokenizer, planted=True), params.distractors, tokenizer)
    else:
        long = english.load_english(tokenizer, english.NATURAL_HELD_OUT_EVERY, planted=False)
    general = _load(params.replay_text, params, tokenizer) if params.replay_text else long
    facts = fact_format(tokenizer, params.fact_values) if is_planted else None
    return RunText(long, general, facts, sentence_ends(tokenizer))


def commits(params: Params, text: RunText) -> dict[str, str]:
    """The commits of the model and the datasets that a run reads from a hub, by hub id."""
    found = [corpus.hub for corpus in (text.long, text.general) if corpus.hub]
    if remote := models.hub_id(params.source, params.scale):
        commit = models.commit_of(models.folder_of(params.source, params.scale, with_weights=False))
        found += [f"{split_revision(remote)[0]}@{commit}"] if commit else []
    return {name: str(commit) for name, commit in map(split_revision, found)}


def check_text(params: Params, tokenizer: PreTrainedTokenizerBase | None = None, on_hub: bool = False) -> None:
    """Raise the errors of `load_text` that can be found within seconds, without reading all files.

    on_hub: whether datasets of a hub are looked up, too. Without a tokenizer, the chat template is not checked.
    """
    _check_planted(params)
    for name in filter(None, (params.text, params.replay_text)):
        if not _is_on_hub(name):
            _with_column(params, name, partial(check_files, name, tokenizer))
        elif on_hub:
            check_hub_text(name)


def _check_planted(params: Params) -> None:
    if params.scale == "mini" and (text := params.text or params.replay_text):
        raise ValueError(
            f"text = {text!r}: the mini models only read the embedded English, with planted facts; use scale small or "
            "paper for text of your own."
        )


def _with_distractors(corpus: Corpus, share: float, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    if not share:
        return corpus
    # The same numbers for all seeds, as the text is the same.
    rng, numbers = np.random.default_rng(0), fact_format(tokenizer).values
    parts = {name: distracted(getattr(corpus, name), numbers, share, rng=rng) for name in ("train", "held_out")}
    return replace(corpus, **parts)


def _load(name: str, params: Params, tokenizer: PreTrainedTokenizerBase) -> Corpus:
    if _is_on_hub(name):
        read = partial(load_hub_text, name, tokenizer, most_tokens=params.text_tokens)
    else:
        read = partial(load_files, name, tokenizer, most_tokens=params.text_tokens)
    return _with_column(params, name, read)


def _with_column(params: Params, name: str, read: Callable[..., Any]) -> Any:
    try:
        return read(text_column=params.text_column)
    except NoColumnError:
        # text_column is a column of the long text. Text for replay may have it or one of the known columns.
        if name == params.text:
            raise
        return read(text_column=None)


def _is_on_hub(name: str) -> bool:
    return is_hub_text(name) and not user_path(name).exists()
