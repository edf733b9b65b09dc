"""The recipe of one run, stage by stage: what the notebooks call and what sweeps repeat.

H' and token analysis -> stage-1 set -> stage 1, extension -> stage 2, replay -> stage 3, merge. Each stage is kept in a
cache folder. So an interrupted run resumes where it stopped, and runs with the same first stages share them.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import bench, evaluate, models, tokens, train
from longrecipe.data import samples
from longrecipe.data.selection import Sample
from longrecipe.merge import merge
from longrecipe.positions import METHODS, Method, find
from longrecipe.recipe import cache, draws, export, measuring, stage_settings
from longrecipe.recipe.context_scores import ContextScores, needs_scores
from longrecipe.recipe.disk import reports_full_disk
from longrecipe.recipe.run_text import RunText, commits
from longrecipe.recipe.weighting import choice_of, warned
from longrecipe.settings import Params, changed
from longrecipe.settings.groups import Text
from longrecipe.system.processes import is_main, made_once
from longrecipe.train.memory import setup_of


@dataclass(frozen=True)
class Recipe:
    """A run: its settings, its tokenizer and its text. Make one with `prepare`.

    analysis_only: whether it was prepared for the token analysis and positions only. plan: what its models are asked in
    standard benchmarks, if its settings have any.
    """

    params: Params
    tokenizer: PreTrainedTokenizerBase
    text: RunText
    analysis_only: bool = False
    plan: bench.Plan | None = field(default=None, compare=False, repr=False)

    @property
    def method(self) -> Method:
        """The entry of `positions.METHODS` that the run trains with."""
        return find(self.params.method)

    def varied(self, **changes: Any) -> "Recipe":
        """The same model and text with other settings. Raises ParamsError for invalid settings."""
        if changes.keys() & (Text.model_fields.keys() | {"model", "scale", "weights", "replay_text"}):
            raise ValueError("model, scale, weights and text need other files: prepare another recipe.")
        return replace(self, params=changed(self.params, **changes), plan=None)

    def folder(self, stage: str) -> Path:
        """The cache folder of a stage: analysis, extend or replay (see `cache.folder_of`)."""
        return cache.folder_of(stage, self.params, self.text)

    # Models, types of tokens and samples

    def base(self) -> PreTrainedModel:
        """The base model, with its own window W."""
        return self._load()

    def raised(self) -> PreTrainedModel:
        """The base model with its RoPE changed for the target length T, untrained: the control."""
        p = self.params
        return self._load(p.target_length, rope_rule=p.rope_rule, rope_factor=p.rope_factor)

    @functools.cached_property
    def types(self) -> tokens.TokenTypes:
        """The run's token types, by its setting token_types."""
        return self.types_by(self.params.token_types)

    def types_by(self, by: str) -> tokens.TokenTypes:
        """Token types by class, pos (with the run's tagger) or token."""
        if by == "pos":
            return tokens.types_by_pos(self.tokenizer, self.params.tagger)
        return {"class": tokens.types_by_class, "token": tokens.types_by_token}[by](self.tokenizer)

    def documents(self, count: int) -> list[np.ndarray]:
        """Documents of T tokens like those of stage 1, to look at. No stage trains on these draws."""
        return list(draws.shown_documents(self.params, self.text, count))

    def shown(self, count: int) -> list[Sample]:
        """Samples of the run's length, to look at without a token analysis (see `draws.shown_samples`)."""
        return draws.shown_samples(self.params, self.text, count)

    def drawn_positions(self, count: int, n_documents: int | None = None) -> list[np.ndarray]:
        """The position_ids of `count` samples from `shown`, as stage 1 draws them in its first epoch.

        n_documents: the number of different documents, which are used in turn; fewer are quicker. None uses one for
        each sample.
        """
        rows, collator = list(samples.rows_of(self.shown(min(count, n_documents or count)))), self.collator()
        return [collator.positions(rows[key % len(rows)] | {"key": key}) for key in range(count)]

    def collator(self, stream: int = 0, skip: bool = False) -> samples.Collator:
        """Makes batches of the run's samples. Stream 0 draws the positions of stage 1, stream 1 those of replay; skip:
        whether short samples also get skipped positions."""
        return samples.Collator(self.method, self.params.target_length, seed=2 * self.params.seed + stream, skip=skip)

    def at_step(self, extended: train.Trained, step: int) -> PreTrainedModel:
        """The model after a step of stage 1, one of the run's eval_steps; 0 is the RoPE rule alone."""
        return self.raised() if step == 0 else self._trained(extended, step)

    # Stages

    @reports_full_disk
    def probe(self) -> train.Trained:
        """Train H': the base model on a little text, to the probe window.

        Samples as long as the probe window keep their own positions (flt); shorter ones (probe_length) are placed in
        two chunks (pose).
        """
        p = self.params
        method = METHODS["flt" if (p.probe_length or p.probe_window) == p.probe_window else "pose"]
        return train.run_stage(
            lambda: self._load(p.probe_window),
            self._stored("analysis", "probe", lambda: draws.probe_rows(p, self.text)),
            samples.Collator(method, p.probe_window, p.seed),
            stage=stage_settings.probe(p, self.analysis_only),
            folder=self.folder("analysis") / "probe",
        )

    @reports_full_disk
    def scored(self, score: str | None = None) -> list[tokens.Scored]:
        """Score each token of the documents under H and H'. Scores are kept in the run's folder.

        score: logit or logprob; None uses the run's analysis_score.
        """
        score = score or self.params.analysis_score
        return tokens.score_documents(
            evaluate.to_read(self.base()),
            evaluate.to_read(self._trained(self.probe())),
            ((f"{i:05d}", ids) for i, ids in enumerate(draws.documents_to_score(self.params, self.text))),
            self.folder("analysis") / f"scores-{score}",
            score=score,
        )

    def analyse(self) -> tokens.Analysis | None:
        """Train H', score documents with H and H', and rank the run's token types by how their scores change.

        Returns None if the run needs no anchors (see `draws.needs_anchors`). If several processes train together, all
        train H', the main one scores and ranks, and the others get None.
        """
        if not draws.needs_anchors(self.params):
            return None
        self.probe()
        if not is_main():
            return None
        found = tokens.rank(self.scored(), self.types, self.params.analysis_top_share, seed=self.params.seed)
        return warned(found, self.params)

    def anchors(self, analysis: tokens.Analysis | None) -> list[str]:
        """The token types that select sentences and weigh losses; none without a token analysis."""
        return [] if analysis is None else analysis.anchors(self.params.anchor_count, self.params.anchor_rule)

    @reports_full_disk
    def stage_one_set(self, analysis: tokens.Analysis | None) -> Dataset:
        """The stored stage-1 set: from each document of T tokens the n tokens that the method trains on, with their
        loss weights if the run has a loss_weight."""
        p, scores = self.params, self._scores()
        choice = choice_of(p, self._anchors(analysis), scores)
        return self._stored("extend", "stage_one", lambda: draws.long_rows(p, self.text, choice), scores)

    @reports_full_disk
    def extend(self, dataset: Dataset) -> train.Trained:
        """Stage 1, extension: train the model with its RoPE changed on the stage-1 set, at the method's positions.

        If the run has eval_steps, weights are kept after these steps, in a folder of their own.
        """
        p = self.params
        return train.run_stage(
            self.raised,
            dataset,
            self.collator(0),
            stage=stage_settings.extend(p),
            folder=self.folder("extend") / "-".join(["extend", *map(str, p.eval_steps or ())]),
            keep_steps=[step for step in p.eval_steps or () if 0 < step < p.extend_steps],
        )

    @reports_full_disk
    def replay(self, extended: train.Trained, analysis: tokens.Analysis | None) -> train.Trained:
        """Stage 2, replay: train on short general text at a decaying rate.

        A replay_long_share of the steps reads stage-1 samples. On short text replay_kl_weight * KL(original || model)
        is added to the loss, and replay_skip_weight times LongReD's term. All are 0 in the paper.
        """
        p, scores = self.params, self._scores()
        choice = choice_of(p, self._anchors(analysis), scores)
        return train.run_stage(
            functools.partial(self._trained, extended),
            self._stored("replay", "replay", lambda: draws.replay_rows(p, self.text, choice), scores),
            self.collator(1, skip=p.replay_skip_weight > 0),
            stage=stage_settings.replay(p),
            folder=self.folder("replay") / "replay",
            original=self.base,
        )

    @reports_full_disk
    def merge(self, replayed: train.Trained) -> PreTrainedModel:
        """Stage 3, merge: merge_weight * original + (1 - merge_weight) * replayed, in the extended configuration.

        merge_rule decides whether all tensors are averaged (the paper's rule), or all but queries and keys (see
        `merge.merge_weights`). The merged model is stored next to the replayed one, in the dtype of the stages, to be
        measured. `export` rounds it to the dtype of the base.
        Raises ValueError if a stored model is damaged.
        """
        p, folder = self.params, cache.merged_folder(self.params, replayed.folder)
        base = models.folder_of(p.source, p.scale)
        made_once(
            folder,
            lambda: merge(base, replayed.folder, folder, weight=p.merge_weight, rule=p.merge_rule),
            "merges the same models",
        )
        if problem := train.damaged_model(folder):
            raise ValueError(f"{folder} is damaged ({problem}): delete it, and the same command merges again.")
        return models.load(folder)

    @reports_full_disk
    def export(self, replayed: train.Trained, numbers: Mapping[str, Mapping] | None = None) -> Path:
        """Write the merged model for all readers, in the dtype of the base, and return its folder.

        numbers: `Report.numbers()` by stage, for the model card; None if nothing was measured. If several processes
        train together, only the main one writes.
        """
        if not is_main():
            return export.out_folder(self.params)
        texts = {"text": self.text.long.sha256, "replay text": self.text.general.sha256}
        return export.export(self.params, replayed.folder, texts, numbers, commits=commits(self.params, self.text))

    @reports_full_disk
    def measure(
        self,
        network: PreTrainedModel,
        *,
        share: float = 1.0,
        others: Collection[str] = (),
        lengths: list[int] | None = None,
        longest: int | None = None,
    ) -> evaluate.Report:
        """NIAH(M) by length and depth, and general scores, on the same held-out documents for all models.

        share: of the run's eval_documents at lengths beyond the window; use less than 1 for baselines that need less
        precision. others: further tasks, from `evaluate.others`. lengths: None means the run's measured_lengths;
        passkeys (eval_passkeys) are only asked at these. longest: lengths above it are not measured; None measures all.
        """
        which = {"share": share, "others": others, "lengths": lengths, "longest": longest}
        return measuring.measure(network, self.params, self.text, wording=self.wording, **which)

    @functools.cached_property
    def wording(self) -> evaluate.Wording:
        """How the tasks are put into words, see `measuring.wording_of`."""
        return measuring.wording_of(self.params, self.text, self.tokenizer)

    def _anchors(self, analysis: tokens.Analysis | None) -> draws.AnchorMask | None:
        if analysis is None:
            return None
        chosen = self.anchors(analysis)
        return lambda ids: self.types.mask(ids, chosen)

    def _scores(self) -> ContextScores | None:
        if not needs_scores(self.params):
            return None
        longer = self.probe()  # all processes train it together

        load = {"base": self.base, "longer": lambda: self._trained(longer)}
        return ContextScores(self.params, load)

    def _stored(
        self, stage: str, name: str, make_rows: Callable[[], Iterable[dict]], scores: ContextScores | None = None
    ) -> Dataset:
        folder = self.folder(stage) / "data" / name
        doing = f"makes the samples of {name.replace('_', ' ')}"

        def rows() -> Iterable[dict]:
            yield from make_rows()
            if scores:
                scores.close(self.folder(stage) / f"{name}-scores-seconds.json")

        return samples.load(made_once(folder, lambda: samples.store(rows(), folder), doing))

    def _load(self, target_length: int | None = None, **rope: Any) -> PreTrainedModel:
        p = self.params
        return models.load(
            p.source,
            p.scale,
            target_length,
            **rope,
            dtype=train.weights_dtype(setup_of(p)),
            window=p.window,
            attention=train.attention_of(p.attention),
        )

    def _trained(self, stage: train.Trained, step: int | None = None) -> PreTrainedModel:
        p = self.params
        return stage.load(train.weights_dtype(setup_of(p)), train.attention_of(p.attention), step=step)
