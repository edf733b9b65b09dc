"""How the runs of an experiment are trained and measured: in full, leanly, merged by every rule and weight, or during
stage 1."""

import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from longrecipe import models, recipe, results
from longrecipe.cost import training_flops
from longrecipe.evaluate import OTHERS, RULER, Report, others
from longrecipe.merge import RULES
from longrecipe.settings import Params
from longrecipe.system.files import read_json, write_text
from longrecipe.train import Trained

# Merge rules and weights of MERGES; at weight 0, the replayed model, all rules are one.
MERGED = (("uniform", 0.0), *itertools.product(RULES, (0.25, 0.5, 0.75)))
# Tasks of the RULER-like score that are only asked on request.
RULER_OTHERS = [name for name in OTHERS if name in RULER]
# Merges are many, so they are measured on this share of the documents.
SHARE = 0.4


@dataclass(frozen=True)
class Measured:
    """What a run brings: its rows by table of results, the anchors, and whether everything was measured."""

    tables: dict[str, pd.DataFrame]
    anchors: list[str]
    full: bool = True


@dataclass(frozen=True)
class Protocol:
    """How a run is trained and measured, and where its results are kept.

    Args:
        store: the experiment in results; protocols of one store share runs.
        measure: trains and measures a run.
        readings: how often the documents of the target's length are read, for the estimate of the time left.
        full: whether everything is measured, so that a lean run does not count as finished.
    """

    store: str
    measure: Callable[[recipe.Recipe], Measured]
    readings: float
    full: bool = True


def _full(run: recipe.Recipe) -> Measured:
    """Merged models are measured at every length, single needles too; extended and replayed ones at window and target.

    The untrained base is the run of method none: base, RoPE rule alone, and the base inside its window on all tasks.
    """
    if run.method.positions is None:
        return _untrained(run)
    training, anchors, stages = train(run)
    reports = {name: run.measure(stage.load(), lengths=_ends(run.params)) for name, stage in stages.items()}
    reports["merged"] = run.measure(run.merge(stages["replayed"]), others=RULER_OTHERS)
    return Measured(tables(reports) | training, anchors)


def _lean(run: recipe.Recipe) -> Measured:
    """Merged models are measured at window and target only; the untrained base as in full."""
    if run.method.positions is None:
        return _untrained(run)
    training, anchors, stages = train(run)
    merged = run.measure(run.merge(stages["replayed"]), lengths=_ends(run.params))
    return Measured(tables({"merged": merged}) | training, anchors, full=False)


def _untrained(run: recipe.Recipe) -> Measured:
    networks = {"base": run.base(), "RoPE rule alone": run.raised()}
    reports = {name: run.measure(network, others=RULER_OTHERS) for name, network in networks.items()}
    # What the base cannot do inside its own window shows nothing at longer lengths, so it is not asked there.
    reports["base, inside"] = run.measure(run.base(), others=others(run.wording), lengths=[run.params.window])
    return Measured(tables(reports), [])


def _merges(run: recipe.Recipe) -> Measured:
    """The model is merged by every rule and weight of MERGED, and each is measured at window and target."""
    training, anchors, stages = train(run)
    measured = []
    for rule, weight in MERGED:
        network = run.varied(merge_weight=weight, merge_rule=rule).merge(stages["replayed"])
        report = run.measure(network, share=SHARE, lengths=_ends(run.params))
        measured.append((rule, weight, report.numbers()))
    return Measured({"scores": results.merge_rows(measured)} | training, anchors)


def _steps(run: recipe.Recipe) -> Measured:
    """Only stage 1 is trained, and the model is measured after each of the run's eval_steps."""
    analysis = run.analyse()
    extended = run.extend(run.stage_one_set(analysis))
    reports = recipe.measure_steps(run, {"extended": extended})
    scores = results.score_rows({name: report.numbers() for name, report in reports.items()})
    return Measured({"scores": scores}, run.anchors(analysis))


FULL = Protocol("grid", _full, readings=4.0)
LEAN = Protocol("grid", _lean, readings=1.0, full=False)
BEYOND = Protocol("beyond", _lean, readings=1.0, full=False)
MERGES = Protocol("front", _merges, readings=SHARE * len(MERGED))
STEPS = Protocol("steps", _steps, readings=2.0)


def tables(reports: dict[str, Report]) -> dict[str, pd.DataFrame]:
    scores = results.score_rows({name: report.numbers() for name, report in reports.items()})
    return {"scores": scores, "depths": results.depth_rows(reports)}


def _ends(p: Params) -> list[int]:
    """Where all models of a run are measured: the shortest length, with the general scores; window; target."""
    return sorted({p.measured_lengths[0], p.window, p.target_length})


def train(run: recipe.Recipe) -> tuple[dict[str, pd.DataFrame], list[str], dict[str, Trained]]:
    """Train a run. Returns the table of what its stages took, the anchors, and the stages extended and replayed."""
    p, training = run.params, {}
    is_new = not any(run.folder("analysis").glob("scores-*"))
    before = run.probe().seconds if recipe.context_scores.needs_probe(p) else 0.0
    start = time.perf_counter()
    analysis = run.analyse()
    if analysis is not None:
        training["token analysis"] = _analysis_compute(run, before + time.perf_counter() - start if is_new else None)
    stages = recipe.train_all(run, analysis)
    if recipe.context_scores.needs_scores(p):
        training["context scores"] = _scores_compute(run, of_probe=analysis is None)
    n_long = p.replay_long_steps * p.replay_batch_size * p.train_length
    short = stages["replayed"].n_tokens - n_long
    # The original model reads the short samples too, forward only, and the model itself at skipped positions.
    other = (short / 3 if p.replay_kl_weight or p.replay_skip_weight else 0) + (short if p.replay_skip_weight else 0)
    training["extended"] = _compute(run, stages["extended"], (stages["extended"].n_tokens, p.train_length))
    training["replayed"] = _compute(run, stages["replayed"], (n_long, p.train_length), (short + other, p.short_length))
    table = pd.DataFrame.from_dict(training, orient="index").rename_axis("stage").reset_index()
    return {"training": table}, run.anchors(analysis), stages


def _flops(run: recipe.Recipe, *read: tuple[float, int]) -> float:
    config = models.config_of(run.params.source, run.params.scale)
    return sum(training_flops(config, n, length) for n, length in read)


def _compute(run: recipe.Recipe, stage: Trained, *read: tuple[float, int]) -> dict[str, float]:
    """Seconds, tokens and model FLOPs of a stage; read: tokens and the length of their samples."""
    return {"seconds": stage.seconds, "n_tokens": stage.n_tokens, "flops": _flops(run, *read)}


def _scores_compute(run: recipe.Recipe, *, of_probe: bool) -> dict[str, float | None]:
    """What the scores of samples and documents take: forward passes over all long samples, a third of training.

    of_probe: whether H' was only trained for them, so that there is no token analysis which counts it.
    """
    p = run.params
    seconds = sum(recipe.context_scores.seconds_of(run.folder(stage)) for stage in ("extend", "replay"))
    n_long = p.n_documents + p.replay_long_steps * p.replay_batch_size
    read = recipe.context_scores.passes(p) * n_long * p.train_length
    probed, length = _probed(p)
    trained = probed if of_probe else 0
    flops = _flops(run, (read / 3, p.train_length), (trained, length))
    return {"seconds": seconds + (run.probe().seconds if of_probe else 0), "n_tokens": trained, "flops": flops}


def _analysis_compute(run: recipe.Recipe, seconds: float | None) -> dict[str, float | None]:
    """What the token analysis takes: H' is trained, then two models read the scored documents (a third of training).

    seconds: of the process that has made the analysis, kept in its folder for the runs that share it; None if this
    process has found it there.
    """
    p, path = run.params, run.folder("analysis") / "seconds.json"
    if seconds is not None:
        write_text(path, json.dumps(seconds))
    (probed, length), scored = _probed(p), p.analysis_length or p.probe_window
    read = p.analysis_documents * scored
    return {
        "seconds": read_json(path, "delete it") if path.is_file() else None,
        "n_tokens": probed,
        "flops": _flops(run, (probed, length), (read * 2 / 3, scored)),
    }


def _probed(p: Params) -> tuple[int, int]:
    """The tokens that H' is trained on, and the length of its samples."""
    length = p.probe_length or p.probe_window
    return p.probe_steps * p.probe_batch_size * length, length
