"""The recipe of one run, stage by stage, from settings: what the notebooks call and sweeps repeat.

H' and token analysis -> stage-1 set -> stage 1, extension -> stage 2, replay -> stage 3, merge; each stage is kept in a
cache folder, so that a run which was killed goes on where it was, and runs that agree up to a stage share it.
"""

import functools
import hashlib
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_from_disk
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import corpus, evaluate, facts, models, positions, samples, tokens, train
from longrecipe.merge import merge
from longrecipe.params import Params, changed
from longrecipe.paths import PACKAGE, cache_dir
from longrecipe.positions import METHODS, Method

# One stream of random numbers for each use, so that a setting of one stage does not shift the draws of another.
_PROBE, _ANALYSIS, _EXTEND, _REPLAY_LONG, _REPLAY_SHORT, _SHOWN = range(6)


@dataclass(frozen=True)
class Recipe:
    """A run's settings and its data; make one with `prepare`."""

    params: Params
    tokenizer: PreTrainedTokenizerBase
    text: corpus.Corpus
    facts: facts.FactFormat | None
    ends: np.ndarray

    @property
    def method(self) -> Method:
        """The entry of `positions.METHODS` that this run trains with."""
        return positions.method(self.params.method)

    def base(self) -> PreTrainedModel:
        """The base model, window W."""
        return models.load(self.params.model, self.params.scale)

    def raised(self) -> PreTrainedModel:
        """The base model with its RoPE base raised by the rule to the target T, untrained: the control."""
        p = self.params
        return models.load(p.model, p.scale, p.target_length, p.rope_factor)

    @functools.cached_property
    def types(self) -> tokens.TokenTypes:
        """How the run sorts tokens, by its token_types."""
        return self.types_by(self.params.token_types)

    def types_by(self, by: str) -> tokens.TokenTypes:
        """Token types by class, pos (with the run's tagger) or token."""
        if by == "pos":
            return tokens.types_by_pos(self.tokenizer, self.params.tagger)
        return {"class": tokens.types_by_class, "token": tokens.types_by_token}[by](self.tokenizer)

    def probe(self) -> train.Trained:
        """Train H': the base on a little text, to the probe window; shorter samples (probe_length) skip positions.

        Samples of the whole probe window are read at their own positions (flt), shorter ones in two chunks (pose).
        """
        p = self.params
        length = p.probe_length or p.probe_window
        rng = self._rng(_PROBE)

        def rows() -> list[dict]:
            count, source = p.probe_steps * p.probe_batch_size, self.text.train[self._analysis_size :]
            if len(source) < length:
                raise ValueError(
                    f"the corpus has {len(self.text.train):,} tokens; {self._analysis_size:,} are kept to be scored, "
                    f"H' needs {length:,} more: ask for fewer analysis_documents, or for shorter ones."
                )
            documents = self._documents(count, length, rng, source)
            return samples.rows_of(map(corpus.as_it_stands, documents))

        stage = self._stage("H'", p.probe_steps, p.probe_batch_size, p.probe_learning_rate, "linear")
        method = METHODS["flt" if length == p.probe_window else "pose"]
        return train.run_stage(
            lambda: models.load(p.model, p.scale, p.probe_window),
            self._stored("analysis", "probe", rows),
            samples.Collator(method, p.probe_window, p.seed),
            stage,
            self.folder("analysis") / "probe",
        )

    def scored(self, score: str | None = None) -> list[tokens.Scored]:
        """Documents of text with every token's score under H and H', kept in the run's folder.

        score: logit or logprob; None takes the run's analysis_score.
        """
        p = self.params
        score = score or p.analysis_score
        length = p.analysis_length or p.probe_window
        if self.facts is None:
            documents = corpus.stretches(self.text.train, p.analysis_documents, length)
        else:
            documents = self._documents(p.analysis_documents, length, self._rng(_ANALYSIS))
        return tokens.score_documents(
            self.base(),
            self.probe().load(),
            ((f"{i:05d}", ids) for i, ids in enumerate(documents)),
            self.folder("analysis") / f"scores-{score}",
            score,
        )

    def analyse(self) -> tokens.Analysis | None:
        """Train H', score documents with H and H', and rank the run's token types by how they change.

        Returns None for methods that select no sentences, and for selections that go by no anchors.
        """
        if self.method.text != "selected" or self.params.selection in ("random", "first"):
            return None
        return tokens.rank(self.scored(), self.types, self.params.analysis_top_share, seed=self.params.seed)

    def documents(self, count: int) -> list[np.ndarray]:
        """Documents of T tokens as stage 1 reads them, to look at; no stage trains on these draws."""
        return self._documents(count, self.params.target_length, self._rng(_SHOWN))

    def varied(self, **changes: Any) -> "Recipe":
        """The same model and text under other settings, by name. Raises ParamsError for what cannot be run."""
        if changes.keys() & {"model", "scale"}:
            raise ValueError("model and scale come with other files: prepare another recipe.")
        return replace(self, params=changed(self.params, **changes))

    def shown(self, count: int) -> list[corpus.Sample]:
        """Samples of the run's length, to look at without a token analysis: where the run's selection goes by anchors,
        sentences are taken at random instead, which may be of another mean length than those with anchors."""
        p, rng = self.params, self._rng(_SHOWN)
        how = "first" if p.selection == "first" else "random"
        documents = self.documents(count)
        return [samples.sample_of(ids, self.method, p.train_length, self.ends, None, rng, how) for ids in documents]

    def drawn_positions(self, count: int, n_documents: int | None = None) -> list[np.ndarray]:
        """position_ids of the samples that `shown` gives, as stage 1 draws them in its first epoch.

        n_documents: so many documents in turn, which is quicker; None takes one for each sample.
        """
        rows, collator = samples.rows_of(self.shown(min(count, n_documents or count))), self.collator()
        return [collator.positions(rows[key % len(rows)] | {"key": key}) for key in range(count)]

    def stage_one_set(self, analysis: tokens.Analysis | None) -> Dataset:
        """The stage-1 set, stored: from each document of T tokens the n tokens that the method trains on."""
        return self._stored("extend", "stage_one", lambda: self._long_rows(self.params.n_documents, analysis, _EXTEND))

    def collator(self, stream: int = 0) -> samples.Collator:
        """What makes batches of this run's samples: stream 0 draws the positions of stage 1, stream 1 of replay."""
        return samples.Collator(self.method, self.params.target_length, seed=2 * self.params.seed + stream)

    def extend(self, dataset: Dataset) -> train.Trained:
        """Stage 1, extension: train the model with raised RoPE base on the stage-1 set, at the method's positions."""
        p = self.params
        stage = self._stage("extend", p.extend_steps, p.extend_batch_size, p.extend_learning_rate, p.extend_schedule)
        return train.run_stage(self.raised, dataset, self.collator(0), stage, self.folder("extend") / "extend")

    def replay(self, extended: train.Trained, analysis: tokens.Analysis | None) -> train.Trained:
        """Stage 2, replay: short general text at a decaying rate.

        replay_long_share of the steps read stage-1 samples; on short text replay_kl_weight * KL(original || model) is
        added to the loss. The paper's setting of both is 0.
        """
        p = self.params
        n_long = round(p.replay_steps * p.replay_long_share)

        def rows() -> list[dict]:
            rng = self._rng(_REPLAY_SHORT)
            count = (p.replay_steps - n_long) * p.replay_batch_size
            short = (
                facts.short_sample(self.text.train, self.facts, p.window, rng, p.replay_fact_share)
                for _ in range(count)
            )
            short_rows = samples.rows_of(map(corpus.as_it_stands, short), long=False)
            long_rows = self._long_rows(n_long * p.replay_batch_size, analysis, _REPLAY_LONG) if n_long else []
            return samples.interleave(long_rows, short_rows, p.replay_batch_size)

        stage = self._stage("replay", p.replay_steps, p.replay_batch_size, p.replay_learning_rate, p.replay_schedule)
        stage = replace(stage, warmup_steps=0, kl_weight=p.replay_kl_weight)
        dataset = self._stored("replay", "replay", rows)
        folder = self.folder("replay") / "replay"
        return train.run_stage(extended.load, dataset, self.collator(1), stage, folder, original=self.base)

    def merge(self, replayed: train.Trained) -> PreTrainedModel:
        """Stage 3, merge: merge_weight * original + (1 - merge_weight) * replayed, in the extended configuration.

        By merge_rule all tensors are averaged (the paper's), or all but queries and keys (see `merge.merge`).
        """
        p = self.params
        out = replayed.folder.with_name(f"merged-{p.merge_rule}-{p.merge_weight:g}")
        shutil.rmtree(out, ignore_errors=True)
        merge(models.folder_of(p.model, p.scale), replayed.folder, out, p.merge_weight, p.merge_rule)
        self.tokenizer.save_pretrained(out)
        return models.load(out)

    def measure(
        self,
        network: PreTrainedModel,
        share: float = 1.0,
        others: Collection[str] = (),
        lengths: list[int] | None = None,
    ) -> evaluate.Report:
        """NIAH(M) by length and depth, and general scores; the same held-out documents for every model.

        share: of the run's eval_documents beyond the window; below 1 for models that only stand beside the others.
        others: further tasks to ask, of `evaluate.OTHERS`. lengths: None takes the run's eval_lengths, the window
        doubled up to the target.
        """
        p = self.params
        return evaluate.report(
            network,
            self.text.held_out,
            evaluate.planted(self.tokenizer),
            lengths or p.eval_lengths,
            p.eval_documents,
            p.eval_facts,
            p.seed,
            others,
            share,
        )

    def _rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.params.seed, stream])

    @property
    def _analysis_size(self) -> int:
        # Real text is scored once, and H' is not trained on it; planted documents are drawn anew each time.
        p = self.params
        return 0 if self.facts else p.analysis_documents * (p.analysis_length or p.probe_window)

    def _documents(
        self, count: int, length: int, rng: np.random.Generator, source: np.ndarray | None = None
    ) -> list[np.ndarray]:
        source = self.text.train if source is None else source
        if self.facts is None:
            return [corpus.excerpt(source, length, rng) for _ in range(count)]
        return [facts.document(source, self.facts, length, rng) for _ in range(count)]

    def _long_rows(self, count: int, analysis: tokens.Analysis | None, stream: int) -> list[dict]:
        p, rng = self.params, self._rng(stream)
        anchors = None if analysis is None else analysis.anchors(p.anchor_count, p.anchor_rule)

        def sample(ids: np.ndarray) -> corpus.Sample:
            is_anchor = None if anchors is None else self.types.mask(ids, anchors)
            return samples.sample_of(ids, self.method, p.train_length, self.ends, is_anchor, rng, p.selection)

        return samples.rows_of(map(sample, self._documents(count, p.target_length, rng)))

    def folder(self, stage: str) -> Path:
        """The cache folder of a stage, analysis, extend or replay: runs that agree in all it reads share it.

        Its name holds a hash of those settings and of this package's code, so that a stage never goes on with what
        other settings or other code had left.
        """
        p = self.params
        name = p.model if stage == "analysis" else f"{p.model}-{p.method_slug}-{p.target_length}"
        return cache_dir() / f"{name}-{stage}-{p.stage_key(stage)}-{_code_hash(p.model)}"

    def _stored(self, stage: str, name: str, make_rows: Callable[[], list[dict]]) -> Dataset:
        folder = self.folder(stage) / "data" / name
        return load_from_disk(str(folder)) if folder.is_dir() else samples.store(make_rows(), folder)

    def _stage(self, name: str, steps: int, batch_size: int, rate: float, schedule: str) -> train.Stage:
        p = self.params
        return train.Stage(name, steps, batch_size, rate, schedule, p.warmup_steps, p.save_steps, p.seed, p.precision)


def prepare(params: Params, analysis_only: bool = False) -> Recipe:
    """Load what a run needs: tokenizer, text, fact format (mini: facts are planted).

    analysis_only: for the token analysis, and to look at positions, at every scale; training works at mini today.
    Raises ValueError where the scale cannot be trained yet.
    """
    if params.scale != "mini" and not analysis_only:
        raise ValueError(f"scale = {params.scale!r}: training works at scale 'mini' today, the analysis at all.")
    tokenizer = models.load_tokenizer(params.model, params.scale)
    planted = params.scale == "mini"
    text = corpus.load_english(tokenizer, planted=planted)
    fact_format = facts.fact_format(tokenizer) if planted else None
    ends = corpus.sentence_end_ids(tokenizer)
    return Recipe(params, tokenizer, text, fact_format, ends)


@functools.cache
def _code_hash(model: str) -> str:
    # What is made of finished models, how settings are read, and other models change no model.
    after = ("pretrain", "plots", "evaluate", "results", "sweep", "cost", "explore", "params")
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        of_another = first == "assets" and path.parent.name != model
        if path.suffix in (".py", ".safetensors", ".json") and first not in after and not of_another:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:8]
