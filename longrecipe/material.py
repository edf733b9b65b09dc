"""What the stages of a run read: documents and samples of its text, drawn from its seed."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe import corpus, facts, samples, tokens
from longrecipe.hubtext import is_hub_text, load_hub_text
from longrecipe.params import Params
from longrecipe.paths import root
from longrecipe.positions import Method
from longrecipe.positions import method as method_of
from longrecipe.textfiles import load_files

log = logging.getLogger(__name__)
# Documents to measure at 16k tokens want that much text that was never trained on: 26k tokens of SmolLM2's.
_HELD_OUT_EVERY = 8
# One stream of random numbers for each use, so that a setting of one stage does not shift the draws of another.
_PROBE, _ANALYSIS, _EXTEND, _REPLAY_LONG, _REPLAY_SHORT, _SHOWN = range(6)


@dataclass(frozen=True)
class Material:
    """Text of a run: long text, general text for replay, how facts are planted in it (mini), where sentences end."""

    params: Params
    text: corpus.Corpus
    general: corpus.Corpus
    facts: facts.FactFormat | None
    ends: np.ndarray

    @property
    def method(self) -> Method:
        """The entry of `positions.METHODS` that this run trains with."""
        return method_of(self.params.method)

    def probe_rows(self) -> Iterator[dict]:
        """Rows that H' is trained on. Raises ValueError where the text is too short for them."""
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
        """Samples of the run's length, to look at without a token analysis: where the run's selection goes by anchors,
        sentences are taken at random instead, which may be of another mean length than those with anchors."""
        p, rng = self.params, self._rng(_SHOWN)
        how = "first" if p.selection == "first" else "random"
        documents = self.shown_documents(count)
        return [samples.sample_of(ids, self.method, p.train_length, self.ends, None, rng, how) for ids in documents]

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, stream])

    @property
    def _analysis_size(self) -> int:
        # Real text is scored once, and H' is not trained on it; planted documents are drawn anew each time.
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
    """The text of a run: the files it names (below the repository root where they are relative) or a dataset of a hub,
    else English that every Python carries, with planted facts at scale mini.

    Raises ValueError where facts are to be planted in text of one's own, and as `textfiles.load_files` and
    `hubtext.load_hub_text` say.
    """
    planted = params.scale == "mini"
    if planted and (params.text or params.replay_text):
        raise ValueError(
            f"text = {params.text or params.replay_text!r}: the mini models read English that every Python carries, "
            "with facts planted in it; text of your own goes with scale small or paper."
        )
    if params.text is None and planted:
        text = corpus.load_english(tokenizer, planted=True)
    elif params.text is None:
        text = corpus.load_english(tokenizer, _HELD_OUT_EVERY, planted=False)
    else:
        text = _load(params.text, tokenizer, params.text_tokens)
    general = _load(params.replay_text, tokenizer, params.text_tokens) if params.replay_text else text
    fact_format = facts.fact_format(tokenizer) if planted else None
    return Material(params, text, general, fact_format, corpus.sentence_end_ids(tokenizer))


def check_held_out(material: Material) -> None:
    """Raise ValueError where the text held out is too short to measure on, and warn where documents will repeat it."""
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


def _load(name: str, tokenizer: PreTrainedTokenizerBase, most_tokens: int | None) -> corpus.Corpus:
    path = root() / name
    load = load_hub_text if is_hub_text(name) and not path.exists() else load_files
    return load(name if load is load_hub_text else path, tokenizer, most_tokens=most_tokens)
