"""Documents and samples of a run, drawn from its text with its seed."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from longrecipe.data import corpus, facts, samples
from longrecipe.data.samples import WEIGHTS
from longrecipe.data.selection import Sample, whole
from longrecipe.positions import find
from longrecipe.recipe.run_text import RunText
from longrecipe.settings import Params

# Which tokens of a document are anchors: from ids int64 [L] to bool [L].
AnchorMask = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """What the sentences and documents of long samples are chosen by, as far as a run needs it.

    anchors: which tokens of a document are anchors. shift: the shifts of its tokens from H to H', float [L]. gain: what
    long context brings the document; of document_candidates the documents with the largest gain are kept. weigh: gives
    rows their loss weights, see `weighting.weighted`.
    """

    anchors: AnchorMask | None = None
    shift: Callable[[np.ndarray], np.ndarray] | None = None
    gain: Callable[[np.ndarray], float] | None = None
    weigh: Callable[[Iterable[dict]], Iterator[dict]] | None = None


# Each use has its own stream of random numbers, so a setting of one stage does not change the draws of another.
_PROBE, _ANALYSIS, _EXTEND, _REPLAY_LONG, _REPLAY_SHORT, _SHOWN, _REACH, _LONGPPL = range(8)


def needs_anchors(p: Params) -> bool:
    """Whether a run needs a token analysis: to select sentences by anchors, or to weigh their losses."""
    method = find(p.method)
    if method.positions is None:
        return False
    return p.loss_weight == "anchor" or (method.text == "selected" and p.selection in ("anchored", "density"))


def probe_rows(p: Params, text: RunText) -> Iterator[dict]:
    """The rows that H' is trained on. Raises ValueError if the text is too short for them."""
    length = p.probe_length or p.probe_window
    count, n_scored = p.probe_steps * p.probe_batch_size, _n_scored(p, text)
    source = text.long.train[n_scored:]
    if len(source) < length:
        raise ValueError(
            f"the corpus has {len(text.long.train):,} tokens. {n_scored:,} are scored, and H' needs {length:,} others: "
            "use fewer analysis_documents, or shorter ones (analysis_length)."
        )
    return samples.rows_of(map(whole, _documents(text, source, count, length=length, rng=_rng(p, _PROBE))))


def documents_to_score(p: Params, text: RunText) -> Iterable[np.ndarray]:
    """The documents whose tokens are scored under H and H'."""
    length = p.analysis_length or p.probe_window
    if text.facts is None:
        return corpus.stretches(text.long.train, p.analysis_documents, length)
    return _documents(text, text.long.train, p.analysis_documents, length=length, rng=_rng(p, _ANALYSIS))


def long_rows(p: Params, text: RunText, choice: Choice) -> Iterator[dict]:
    """The rows of the stage-1 set: n tokens of each document of T tokens, chosen as the method needs."""
    return _long_rows(p, text, choice, count=p.n_documents, stream=_EXTEND)


def replay_rows(p: Params, text: RunText, choice: Choice) -> list[dict]:
    """The rows of replay: short general text, and a replay_long_share of stage-1 samples.

    If stage-1 samples have loss weights, all tokens of short text have the weight 1.
    """
    rng, size = _rng(p, _REPLAY_SHORT), p.replay_batch_size
    n_long = p.replay_long_steps
    count, source = (p.replay_steps - n_long) * size, text.general.train
    if text.facts is None:
        short = corpus.excerpts(source, count, p.short_length, rng=rng)
    else:
        short = (
            facts.short_sample(source, text.facts, p.short_length, rng=rng, fact_share=p.replay_fact_share)
            for _ in range(count)
        )
    short_rows = samples.rows_of(map(whole, short), long=False)
    long = _long_rows(p, text, choice, count=n_long * size, stream=_REPLAY_LONG) if n_long else []
    if choice.weigh is not None:
        short_rows = (row | {WEIGHTS: np.ones(len(row["input_ids"]), dtype=np.float32)} for row in short_rows)
    return samples.interleave(long, short_rows, size)


def shown_documents(p: Params, text: RunText, count: int) -> Iterable[np.ndarray]:
    """Documents of T tokens to look at. No stage trains on these draws."""
    return _documents(text, text.long.train, count, length=p.target_length, rng=_rng(p, _SHOWN))


def shown_samples(p: Params, text: RunText, count: int) -> list[Sample]:
    """Samples to look at, without a token analysis.

    If the run selects sentences by anchors, they are selected at random instead. Their mean length may differ from
    that of sentences with anchors.
    """
    return _without_anchors(p, text, count, stream=_SHOWN)


def held_out_documents(p: Params, text: RunText, count: int) -> list[np.ndarray]:
    """At most `count` documents of T held-out tokens: with planted facts, or stretches of real text without overlap.

    If less real text is held out than T tokens, the only document is all of it.
    """
    held_out = text.long.held_out
    if text.facts is not None:
        return list(_documents(text, held_out, count, length=p.target_length, rng=_rng(p, _LONGPPL)))
    length = min(p.target_length, len(held_out))
    count = min(count, len(held_out) // length)
    return [np.asarray(ids, dtype=np.int64) for ids in corpus.stretches(held_out, count, length)]


def segment_counts(p: Params, text: RunText, count: int = 16) -> np.ndarray:
    """The number of segments in each of `count` samples, which are drawn only for this, int64 [count]."""
    drawn = _without_anchors(p, text, count, stream=_REACH)
    return np.array([len(sample.segment_lengths) for sample in drawn])


def _without_anchors(p: Params, text: RunText, count: int, *, stream: int) -> list[Sample]:
    # Two generators, so that the number of documents does not change which sentences are selected.
    rng, method = _rng(p, stream), find(p.method)
    how = "first" if p.selection == "first" else "random"
    documents = _documents(text, text.long.train, count, length=p.target_length, rng=_rng(p, stream))
    return [
        samples.sample_of(ids, method, p.train_length, ends=text.ends, is_anchor=None, rng=rng, selection=how)
        for ids in documents
    ]


def _rng(p: Params, stream: int) -> np.random.Generator:
    return np.random.default_rng([p.seed, stream])


def _n_scored(p: Params, text: RunText) -> int:
    """How many tokens at the start of the text are only scored, and not used to train H'."""
    # Documents with planted facts are new in each draw, so they need no text of their own.
    return 0 if text.facts else p.analysis_documents * (p.analysis_length or p.probe_window)


def _documents(
    text: RunText, source: np.ndarray, count: int, *, length: int, rng: np.random.Generator
) -> Iterable[np.ndarray]:
    if text.facts is not None:
        return [facts.document(source, text.facts, length, rng=rng) for _ in range(count)]
    if len(source) < length:
        raise ValueError(
            f"the corpus has {len(source):,} tokens to train on, but a document needs {length:,}: add text (-p text "
            "FOLDER), or use a shorter target_length."
        )
    return corpus.excerpts(source, count, length, rng=rng)


def _long_rows(p: Params, text: RunText, choice: Choice, *, count: int, stream: int) -> Iterator[dict]:
    rng, method = _rng(p, stream), find(p.method)

    def sample(ids: np.ndarray) -> Sample:
        is_anchor = None if choice.anchors is None else choice.anchors(ids)
        shift = None if choice.shift is None else choice.shift(ids)
        return samples.sample_of(
            ids,
            method,
            p.train_length,
            ends=text.ends,
            is_anchor=is_anchor,
            rng=rng,
            selection=p.selection,
            shift=shift,
        )

    def documents(rng: np.random.Generator) -> Iterable[np.ndarray]:
        drawn = count * p.document_candidates
        return _documents(text, text.long.train, drawn, length=p.target_length, rng=rng)

    drawn = documents(rng)
    if choice.gain is not None:
        # Drawn twice: of a text of your own, only one candidate is in memory at a time.
        gains = np.array([choice.gain(ids) for ids in documents(_rng(p, stream))])
        kept = np.isin(np.arange(len(gains)), np.argsort(-gains, kind="stable")[:count])
        drawn = itertools.compress(drawn, kept)
    rows = samples.rows_of(map(sample, drawn))
    return rows if choice.weigh is None else choice.weigh(rows)
