"""The recipe of one run, stage by stage, from settings: what the notebooks call and sweeps repeat.

H' and token analysis -> stage-1 set -> stage 1, extension -> stage 2, replay -> stage 3, merge; each stage is kept in a
cache folder, so that a run which was killed resumes where it was, and runs that agree up to a stage share it.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import evaluate, models, tokens, train
from longrecipe.data import corpus, samples
from longrecipe.data.sentences import SentenceEnds
from longrecipe.merge import merge
from longrecipe.positions import METHODS, Method
from longrecipe.recipe import cache, export, preflight
from longrecipe.recipe.disk import reports_full_disk, run_disk_reported
from longrecipe.recipe.run_text import Material, check_held_out, check_reach, check_text, load_material
from longrecipe.settings import Params, changed
from longrecipe.system.files import check_writable
from longrecipe.system.paths import cache_dir
from longrecipe.system.processes import is_main, made_once
from longrecipe.train.memory import rows_at_once, setup_of


@dataclass(frozen=True)
class Recipe:
    """A run: its tokenizer, its settings and its text; make one with `prepare`."""

    tokenizer: PreTrainedTokenizerBase
    material: Material

    @property
    def params(self) -> Params:
        """Every setting of the run."""
        return self.material.params

    @property
    def method(self) -> Method:
        """The entry of `positions.METHODS` that this run trains with."""
        return self.material.method

    @property
    def ends(self) -> SentenceEnds:
        """Which tokens of a document end a sentence."""
        return self.material.ends

    def base(self) -> PreTrainedModel:
        """The base model, window W."""
        return self._load()

    def raised(self) -> PreTrainedModel:
        """The base model with its RoPE base raised by the rule to the target T, untrained: the control."""
        return self._load(self.params.target_length, self.params.rope_factor)

    @functools.cached_property
    def types(self) -> tokens.TokenTypes:
        """How the run sorts tokens, by its token_types."""
        return self.types_by(self.params.token_types)

    def types_by(self, by: str) -> tokens.TokenTypes:
        """Token types by class, pos (with the run's tagger) or token."""
        if by == "pos":
            return tokens.types_by_pos(self.tokenizer, self.params.tagger)
        return {"class": tokens.types_by_class, "token": tokens.types_by_token}[by](self.tokenizer)

    @reports_full_disk
    def probe(self) -> train.Trained:
        """Train H': the base on a little text, to the probe window; shorter samples (probe_length) skip positions.

        Samples of the whole probe window are read at their own positions (flt), shorter ones in two chunks (pose).
        """
        p = self.params
        stage = self._stage("H'", p.probe_steps, p.probe_batch_size, p.probe_learning_rate, "linear")
        method = METHODS["flt" if (p.probe_length or p.probe_window) == p.probe_window else "pose"]
        return train.run_stage(
            lambda: self._load(p.probe_window),
            self._stored("analysis", "probe", self.material.probe_rows),
            samples.Collator(method, p.probe_window, p.seed),
            stage=stage,
            folder=self.folder("analysis") / "probe",
        )

    @reports_full_disk
    def scored(self, score: str | None = None) -> list[tokens.Scored]:
        """Documents of text with every token's score under H and H', kept in the run's folder.

        score: logit or logprob; None takes the run's analysis_score.
        """
        score = score or self.params.analysis_score
        return tokens.score_documents(
            evaluate.to_read(self.base()),
            evaluate.to_read(self._trained(self.probe())),
            ((f"{i:05d}", ids) for i, ids in enumerate(self.material.to_score())),
            self.folder("analysis") / f"scores-{score}",
            score=score,
        )

    def analyse(self) -> tokens.Analysis | None:
        """Train H', score documents with H and H', and rank the run's token types by how they change.

        Returns None for methods that select no sentences, and for selections that go by no anchors. Where several
        processes train, all train H', the main one scores and ranks, and the others get None.
        """
        if self.method.text != "selected" or self.params.selection in ("random", "first"):
            return None
        self.probe()
        if not is_main():
            return None
        return tokens.rank(self.scored(), self.types, self.params.analysis_top_share, seed=self.params.seed)

    def documents(self, count: int) -> list[np.ndarray]:
        """Documents of T tokens as stage 1 reads them, to look at; no stage trains on these draws."""
        return list(self.material.shown_documents(count))

    def varied(self, **changes: Any) -> "Recipe":
        """The same model and text under other settings, by name. Raises ParamsError for what cannot be run."""
        if changes.keys() & {"model", "scale", "weights", "text", "text_tokens", "replay_text"}:
            raise ValueError("model, scale, weights and text come with other files: prepare another recipe.")
        return replace(self, material=replace(self.material, params=changed(self.params, **changes)))

    def shown(self, count: int) -> list[corpus.Sample]:
        """Samples of the run's length, to look at without a token analysis (see `Material.shown`)."""
        return self.material.shown(count)

    def drawn_positions(self, count: int, n_documents: int | None = None) -> list[np.ndarray]:
        """position_ids of the samples that `shown` gives, as stage 1 draws them in its first epoch.

        n_documents: this number of documents in turn, which is quicker; None takes one for each sample.
        """
        rows, collator = list(samples.rows_of(self.shown(min(count, n_documents or count)))), self.collator()
        return [collator.positions(rows[key % len(rows)] | {"key": key}) for key in range(count)]

    @reports_full_disk
    def stage_one_set(self, analysis: tokens.Analysis | None) -> Dataset:
        """The stage-1 set, stored: from each document of T tokens the n tokens that the method trains on."""
        return self._stored("extend", "stage_one", lambda: self.material.long_rows(*self._anchors(analysis)))

    def collator(self, stream: int = 0) -> samples.Collator:
        """What makes batches of this run's samples: stream 0 draws the positions of stage 1, stream 1 of replay."""
        return samples.Collator(self.method, self.params.target_length, seed=2 * self.params.seed + stream)

    @reports_full_disk
    def extend(self, dataset: Dataset) -> train.Trained:
        """Stage 1, extension: train the model with raised RoPE base on the stage-1 set, at the method's positions."""
        p = self.params
        stage = self._stage("extend", p.extend_steps, p.extend_batch_size, p.extend_learning_rate, p.extend_schedule)
        return train.run_stage(
            self.raised, dataset, self.collator(0), stage=stage, folder=self.folder("extend") / "extend"
        )

    @reports_full_disk
    def replay(self, extended: train.Trained, analysis: tokens.Analysis | None) -> train.Trained:
        """Stage 2, replay: short general text at a decaying rate.

        replay_long_share of the steps read stage-1 samples; on short text replay_kl_weight * KL(original || model) is
        added to the loss. The paper's setting of both is 0.
        """
        p = self.params
        stage = self._stage("replay", p.replay_steps, p.replay_batch_size, p.replay_learning_rate, p.replay_schedule)
        stage = replace(stage, warmup_steps=0, kl_weight=p.replay_kl_weight)
        dataset = self._stored("replay", "replay", lambda: self.material.replay_rows(*self._anchors(analysis)))
        folder = self.folder("replay") / "replay"
        start = functools.partial(self._trained, extended)
        return train.run_stage(start, dataset, self.collator(1), stage=stage, folder=folder, original=self.base)

    @reports_full_disk
    def merge(self, replayed: train.Trained) -> PreTrainedModel:
        """Stage 3, merge: merge_weight * original + (1 - merge_weight) * replayed, in the extended configuration.

        By merge_rule all tensors are averaged (the paper's), or all but queries and keys (see `merge.merge_weights`).
        In the dtype of the stages: this is the model to measure. `export` rounds it to the dtype of the base.
        """
        p, base = self.params, models.folder_of(self.params.source, self.params.scale)
        name = f"merged-{p.merge_rule}-{p.merge_weight:g}-{cache.code_of('merge')}"
        folder = replayed.folder.with_name(name)
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
        """Write the merged model for every reader, in the base's dtype, to the folder that `export.check_out` gives.

        numbers: `Report.numbers()` by stage, for the model card; None if nothing was measured. If several processes
        train together, the main one writes. Returns the folder.
        """
        if not is_main():
            return export.out_folder(self.params)
        texts = {"text": self.material.text.sha256, "replay text": self.material.general.sha256}
        return export.export(self.params, replayed.folder, texts, numbers)

    def measure(
        self,
        network: PreTrainedModel,
        share: float = 1.0,
        others: Collection[str] = (),
        lengths: list[int] | None = None,
    ) -> evaluate.Report:
        """NIAH(M) by length and depth, and general scores; the same held-out documents for every model.

        share: of the run's eval_documents beyond the window; below 1 for models that are measured for comparison only.
        others: further tasks to ask, of `evaluate.OTHERS`. lengths: None takes the run's measured_lengths; passkeys
        (eval_passkeys) are asked there alone.
        """
        p, wording = self.params, self._wording
        return evaluate.report(
            evaluate.to_read(network, p.eval_precision),
            np.asarray(self.material.text.held_out, dtype=np.int64),
            wording,
            lengths=lengths or p.measured_lengths,
            n_documents=p.eval_documents,
            n_facts=p.eval_facts,
            seed=p.seed,
            others=others,
            share=share,
            n_passkeys=0 if lengths else p.eval_passkeys,
            haystack=wording.encode(evaluate.NOISE) if p.eval_haystack == "noise" else None,
        )

    def folder(self, stage: str) -> Path:
        """The cache folder of a stage, analysis, extend or replay: runs that agree in all it reads share it.

        Its name holds hashes of those settings, of the model that the run starts from, of the code that the stage uses
        (see `stagecode`) and of your own text, so that a stage never resumes from files of other settings, another
        model, other code or other text.
        """
        p, m = self.params, self.material
        name = p.model if stage == "analysis" else f"{p.model}-{p.method_slug}-{p.target_length}"
        read = [m.text.sha256[:8]] if p.text else []
        read += [m.general.sha256[:8]] if stage == "replay" and p.replay_text else []
        made_from = cache.made_from(stage, models.folder_of(p.source, p.scale))
        return cache_dir() / "-".join([name, stage, p.stage_key(stage), *read, made_from])

    @functools.cached_property
    def _wording(self) -> evaluate.Wording:
        if self.material.facts is not None:
            return evaluate.planted(self.tokenizer)
        try:
            text = self.tokenizer.decode(self.material.text.train[:200_000].tolist())
            return evaluate.sentences(self.tokenizer, text)
        except ValueError:
            # Text in another language has too few English words to name facts by.
            return preflight.english_wording(self.tokenizer)

    def _anchors(self, analysis: tokens.Analysis | None) -> tuple[tokens.TokenTypes | None, list[str] | None]:
        if analysis is None:
            return None, None
        return self.types, analysis.anchors(self.params.anchor_count, self.params.anchor_rule)

    def _stored(self, stage: str, name: str, make_rows: Callable[[], Iterable[dict]]) -> Dataset:
        folder = self.folder(stage) / "data" / name
        doing = f"makes the samples of {name.replace('_', ' ')}"
        return samples.load(made_once(folder, lambda: samples.store(make_rows(), folder), doing))

    def _load(self, target_length: int | None = None, rope_factor: float | None = None) -> PreTrainedModel:
        p = self.params
        dtype, attention = train.weights_dtype(setup_of(p)), train.attention_of(p.attention)
        return models.load(
            p.source,
            p.scale,
            target_length,
            rope_factor=rope_factor,
            dtype=dtype,
            window=p.window,
            attention=attention,
        )

    def _trained(self, stage: train.Trained) -> PreTrainedModel:
        p = self.params
        return stage.load(train.weights_dtype(setup_of(p)), train.attention_of(p.attention))

    def _stage(self, name: str, steps: int, batch_size: int, rate: float, schedule: str) -> train.Stage:
        p, setup = self.params, setup_of(self.params)
        common = (p.warmup_steps, p.save_steps, p.seed, p.precision)
        batches = max(1, batch_size // (train.n_readers(setup) * rows_at_once(p, batch_size)))
        return train.Stage(name, steps, batch_size, rate, schedule, *common, accumulation=batches, setup=setup)


def prepare(params: Params, analysis_only: bool = False) -> Recipe:
    """Load what a run needs: tokenizer and text, which at scale mini has planted facts.

    analysis_only: for the token analysis, and to look at positions. Otherwise the checks of `preflight` run first, so
    that a problem ends the run before any work: model, tokenizer, text, export folder, disk, facts to ask for.
    Raises ValueError or OSError, with the value and how to fix it.
    """
    for stage in cache.CODE:
        # Now, as sources may be edited while the run is at work.
        cache.code_of(stage)
    check_writable(cache_dir(), "cache ($LONGRECIPE_CACHE)")
    if analysis_only:
        config = preflight.check_config(params)
        check_text(params)
        if not models.is_remote(params.source, params.scale):
            preflight.check_weights(params, config, trains=False)
    else:
        config = preflight.check(params)
    tokenizer = preflight.load_tokenizer(params, config)
    with run_disk_reported(params):
        material = load_material(params, tokenizer)
    if not analysis_only:
        check_held_out(material)
        preflight.check_amount(material)
        check_reach(material)
    return Recipe(tokenizer, material)
