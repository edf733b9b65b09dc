"""What the stages of a run read: documents and samples of its text, drawn from its seed."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe import tokens
from longrecipe.data import corpus, facts, samples
from longrecipe.data.hubtext import check_hub_text, is_hub_text, load_hub_text
from longrecipe.data.sentences import SentenceEnds, sentence_ends
from longrecipe.data.textcheck import check_files
from longrecipe.data.textcolumns import NoColumnError
from longrecipe.data.textfiles import load_files
from longrecipe.positions import Method, find
from longrecipe.settings import Params
from longrecipe.system.paths import user_path

log = logging.getLogger(__name__)
# Documents to measure at 16k tokens need that much text that was never trained on: 26k tokens of SmolLM2's.
_HELD_OUT_EVERY = 8
# One stream of random numbers for each use, so that a setting of one stage does not shift the draws of another.
_PROBE, _ANALYSIS, _EXTEND, _REPLAY_LONG, _REPLAY_SHORT, _SHOWN, _REACH = range(7)


@dataclass(frozen=True)
class Material:
    """Text of a run: long text, general text for replay, how facts are planted in it (mini), where sentences end."""

    params: Params
    text: corpus.Corpus
    general: corpus.Corpus
    facts: facts.FactFormat | None
    ends: SentenceEnds

    @property
    def method(self) -> Method:
        """The entry of `positions.METHODS` that this run trains with."""
        return find(self.params.method)

    def probe_rows(self) -> Iterator[dict]:
        """Rows that H' is trained on. Raises ValueError if the text is too short for them."""
        p = self.params
        length = p.probe_length or p.probe_window
        count, source = p.probe_steps * p.probe_batch_size, self.text.train[self._analysis_size :]
        if len(source) < length:
            raise ValueError(
                f"the corpus has {len(self.text.train):,} tokens; {self._analysis_size:,} are kept to be scored, "
                f"H' needs {length:,} more: ask for fewer analysis_documents, or for shorter ones."
            )
        documents = self._documents(count, length, self._rng(_PROBE), source)
        return samples.rows_of(map(corpus.as_it_stands, documents))

    def to_score(self) -> Iterable[np.ndarray]:
        """Documents whose tokens are scored under H and H'."""
        p = self.params
        length = p.analysis_length or p.probe_window
        if self.facts is None:
            return corpus.stretches(self.text.train, p.analysis_documents, length)
        return self._documents(p.analysis_documents, length, self._rng(_ANALYSIS))

    def long_rows(self, types: tokens.TokenTypes | None, anchors: list[str] | None) -> Iterator[dict]:
        """Rows of the stage-1 set: from each document of T tokens the n that the method trains on."""
        return self._long_rows(self.params.n_documents, types, anchors, _EXTEND)

    def replay_rows(self, types: tokens.TokenTypes | None, anchors: list[str] | None) -> list[dict]:
        """Rows of replay: short general text, and replay_long_share of stage-1 samples."""
        p, rng = self.params, self._rng(_REPLAY_SHORT)
        n_long = round(p.replay_steps * p.replay_long_share)
        count, source = (p.replay_steps - n_long) * p.replay_batch_size, self.general.train
        if self.facts is None:
            short = corpus.excerpts(source, count, p.short_length, rng)
        else:
            short = (
                facts.short_sample(source, self.facts, p.short_length, rng, p.replay_fact_share) for _ in range(count)
            )
        short_rows = samples.rows_of(map(corpus.as_it_stands, short), long=False)
        long_rows = self._long_rows(n_long * p.replay_batch_size, types, anchors, _REPLAY_LONG) if n_long else []
        return samples.interleave(long_rows, short_rows, p.replay_batch_size)

    def shown_documents(self, count: int) -> Iterable[np.ndarray]:
        """Documents of T tokens to look at; no stage trains on these draws."""
        return self._documents(count, self.params.target_length, self._rng(_SHOWN))

    def shown(self, count: int) -> list[corpus.Sample]:
        """Samples of the run's length, to look at without a token analysis: if the run's selection goes by anchors,
        sentences are taken at random instead; their mean length may differ from that of sentences with anchors."""
        return self._unranked(count, _SHOWN)

    def reached(self, count: int = 16) -> np.ndarray:
        """Segments of `count` samples that are only drawn to be counted, int64 [count]."""
        return np.array([len(sample.segment_lengths) for sample in self._unranked(count, _REACH)])

    def _unranked(self, count: int, stream: int) -> list[corpus.Sample]:
        # Two generators, so that the number of documents does not shift the choice of sentences.
        p, rng = self.params, self._rng(stream)
        how = "first" if p.selection == "first" else "random"
        documents = self._documents(count, p.target_length, self._rng(stream))
        return [samples.sample_of(ids, self.method, p.train_length, self.ends, None, rng, how) for ids in documents]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, stream])

    @property
    def _analysis_size(self) -> int:
        # Real text is scored once, and H' is not trained on it; planted documents are new each time.
        p = self.params
        return 0 if self.facts else p.analysis_documents * (p.analysis_length or p.probe_window)

    def _documents(
        self, count: int, length: int, rng: np.random.Generator, source: np.ndarray | None = None
    ) -> Iterable[np.ndarray]:
        source = self.text.train if source is None else source
        if self.facts is not None:
            return [facts.document(source, self.facts, length, rng) for _ in range(count)]
        if len(source) < length:
            raise ValueError(
                f"the corpus has {len(source):,} tokens to train on, and a document {length:,}: name more text "
                "(-p text FOLDER), or a shorter target_length."
            )
        return corpus.excerpts(source, count, length, rng)

    def _long_rows(
        self, count: int, types: tokens.TokenTypes | None, anchors: list[str] | None, stream: int
    ) -> Iterator[dict]:
        p, rng = self.params, self._rng(stream)

        def sample(ids: np.ndarray) -> corpus.Sample:
            is_anchor = None if anchors is None else types.mask(ids, anchors)
            return samples.sample_of(ids, self.method, p.train_length, self.ends, is_anchor, rng, p.selection)

        return samples.rows_of(map(sample, self._documents(count, p.target_length, rng)))


def load_material(params: Params, tokenizer: PreTrainedTokenizerBase) -> Material:
    """The text of a run: the files it names (relative to the working directory) or a dataset of a hub, else English
    that every Python carries, with planted facts at scale mini.

    Raises ValueError if facts are to be planted in a text of your own, and as `textfiles.load_files` and
    `hubtext.load_hub_text` say.
    """
    planted = params.scale == "mini"
    _check_planted(params)
    if params.text is None and planted:
        text = corpus.load_english(tokenizer, planted=True)
    elif params.text is None:
        text = corpus.load_english(tokenizer, _HELD_OUT_EVERY, planted=False)
    else:
        text = _load(params.text, params, tokenizer)
    general = _load(params.replay_text, params, tokenizer) if params.replay_text else text
    fact_format = facts.fact_format(tokenizer) if planted else None
    return Material(params, text, general, fact_format, sentence_ends(tokenizer))


def check_text(params: Params, tokenizer: PreTrainedTokenizerBase | None = None, on_hub: bool = False) -> None:
    """Raise as `load_material` does for what is wrong with the text of a run, within seconds: files are read in part.

    on_hub: whether datasets of a hub are looked up too. Without a tokenizer, conversations are not checked for a chat
    template.
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
            f"text = {text!r}: the mini models read English that every Python carries, with facts planted in it; text "
            "of your own goes with scale small or paper."
        )


def check_reach(material: Material) -> None:
    """Raise ValueError if the samples of a run have too few segments for positions far into the target length.

    Only for methods that move sentences: with N segments in n tokens, the furthest of N - 1 random offsets is on
    average (N - 1) / N of the T - n positions that are free. PoSE, which needs no sentences, has two chunks in every
    text and so reaches one half; a text whose samples reach less on average is refused. Samples without any jump are
    reported in a warning. Needs a part of the text only, seconds at any size.
    """
    p = material.params
    if material.method.text != "selected" or p.train_length >= p.target_length:
        return
    counts = material.reached()
    single, name = int((counts == 1).sum()), p.text or "the embedded English"
    told = (
        f"text = {name!r}: {single} of {len(counts)} samples of {p.train_length:,} tokens are a single segment "
        f"without a sentence end or newline, at positions 0 to {p.train_length - 1:,} of {p.target_length:,}"
    )
    if np.mean((counts - 1) / counts) < 0.5:
        raise ValueError(
            f"{told} (median number of segments: {np.median(counts):.0f}). Long positions need jumps between segments: "
            "give text with sentence ends or newlines, split long lines, or use `method: pose`, which needs neither."
        )
    if single:
        log.warning("%s: these train no long positions; split long lines, or use text with sentence ends.", told)


def check_held_out(material: Material) -> None:
    """Raise ValueError if the held-out text is too short to measure on, and warn if documents will repeat it."""
    p, held_out = material.params, len(material.text.held_out)
    shortest, longest = p.measured_lengths[0], p.measured_lengths[-1]
    if held_out < shortest:
        raise ValueError(
            f"{held_out:,} tokens of the text are held out, the shortest length to measure at has {shortest:,}: "
            "name more text (-p text FOLDER), or a shorter one in eval_lengths."
        )
    if held_out < longest:
        log.warning(
            "%s tokens of the text are held out: documents of up to %s tokens repeat them; name more text (-p text).",
            f"{held_out:,}",
            f"{longest:,}",
        )


def _load(name: str, params: Params, tokenizer: PreTrainedTokenizerBase) -> corpus.Corpus:
    load = load_hub_text if _is_on_hub(name) else load_files
    return _with_column(params, name, partial(load, name, tokenizer, most_tokens=params.text_tokens))


def _with_column(params: Params, name: str, read: Callable[..., Any]) -> Any:
    try:
        return read(text_column=params.text_column)
    except NoColumnError:
        # The column is that of the long text; text for replay may have it or one of the usual ones.
        if name == params.text:
            raise
        return read(text_column=None)


def _is_on_hub(name: str) -> bool:
    return is_hub_text(name) and not user_path(name).exists()
