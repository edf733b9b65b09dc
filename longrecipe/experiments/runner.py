"""Running a grid: one run after the other, each with a folder of the cache, see `results.store`."""

import itertools
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from longrecipe import models, recipe, results
from longrecipe.cost import training_flops
from longrecipe.evaluate import OTHERS, RULER
from longrecipe.experiments.tables import FRONT, GRID
from longrecipe.merge import RULES
from longrecipe.settings import Params
from longrecipe.system.files import BusyError, locked, read_json, write_text
from longrecipe.system.paths import cache_dir
from longrecipe.train import Trained

log = logging.getLogger(__name__)
MERGES = (("uniform", 0.0), *itertools.product(RULES, (0.25, 0.5, 0.75)))
# Tasks of the RULER-like score that are only asked on request.
_RULER_OTHERS = [name for name in OTHERS if name in RULER]
# Merges are many, and measured on so large a share of the documents.
BESIDE = 0.4


def run(grid: Iterable[Params], how: str = "full", force: bool = False) -> None:
    """Run every setting of a grid that has not finished yet.

    how: full or lean, see `one`, or merges. force: repeat the training and the measurements of finished runs; only
    token analyses are kept. Raises BusyError if another sweep uses the same cache: two would share the processors, and
    their times would mean nothing.
    """
    left = [p for p in dict.fromkeys(grid) if force or not is_finished(p, how)]
    if not left:
        return
    with (
        _alone(),
        tqdm(total=sum(_weight(p, how) for p in left), bar_format="{desc} {percentage:3.0f}%|{bar}|") as bar,
    ):
        start = time.perf_counter()
        for i, p in enumerate(left):
            if force:
                _forget(p)
            passed = time.perf_counter() - start
            minutes = (
                f"{passed / bar.n * (bar.total - bar.n) / 60:.0f} minutes left" if bar.n else "time left not known"
            )
            name = folder_of(p, how).name
            bar.set_description_str(f"{i} of {len(left)} runs, {minutes}; now {name}")
            log.info("%d of %d runs done, %s; now %s", i, len(left), minutes, name)
            if how == "merges":
                merges(p)
            else:
                # What was measured in full stays so.
                one(p, full=how == "full" or is_finished(p))
            bar.update(_weight(p, how))


def _forget(p: Params) -> None:
    """Remove what a run has trained."""
    R = recipe.prepare(p)
    for stage in ("extend", "replay"):
        shutil.rmtree(R.folder(stage), ignore_errors=True)


def folder_of(p: Params, how: str = "full") -> Path:
    """Where the record of a run goes."""
    return results.run_dir(p, _experiment(how))


def _experiment(how: str) -> str:
    return FRONT if how == "merges" else GRID


def is_finished(p: Params, how: str = "full") -> bool:
    """Whether a run has finished, with all that is asked of it: a lean one does not stand for a full one.

    A damaged run has not finished, with a warning, so that a sweep repeats it.
    """
    found = results.find(p, _experiment(how))
    return found is not None and (how != "full" or found.full)


def one(p: Params, full: bool = True) -> None:
    """Train by one setting, measure, and save the run.

    The untrained base is the run of method none: base, RoPE rule alone, and the base inside its window on all tasks.
    full: merged models are measured at every length, single needles too, and extended and replayed ones at window and
    target. lean: merged models at window and target only.
    """
    start, R, reports, training, anchors = time.perf_counter(), recipe.prepare(p), {}, {}, []
    ends = _ends(p)
    if R.method.positions is None:
        for name, network in {"base": R.base(), "RoPE rule alone": R.raised()}.items():
            reports[name] = R.measure(network, others=_RULER_OTHERS)
        # What the base cannot do inside its own window says nothing of longer ones, so it is not asked there.
        reports["base, inside"] = R.measure(R.base(), others=OTHERS, lengths=[p.window])
        full = True
    else:
        training, anchors, stages = _train(R)
        for name, stage in stages.items() if full else ():
            reports[name] = R.measure(stage.load(), lengths=ends)
        merged = R.merge(stages["replayed"])
        reports["merged"] = R.measure(merged, others=["single"]) if full else R.measure(merged, lengths=ends)
    scores = results.score_rows({name: each.numbers() for name, each in reports.items()})
    tables = {"scores": scores, "depths": results.depth_rows(reports)} | training
    results.save(p, GRID, tables, seconds=time.perf_counter() - start, full=full, anchors=anchors)


def merges(p: Params) -> None:
    """Train by one setting, merge by every rule and weight of MERGES, measure each, and save the run."""
    start, R, measured = time.perf_counter(), recipe.prepare(p), []
    training, anchors, stages = _train(R)
    for rule, weight in MERGES:
        network = R.varied(merge_weight=weight, merge_rule=rule).merge(stages["replayed"])
        report = R.measure(network, share=BESIDE, lengths=_ends(p))
        measured.append((rule, weight, report.numbers()))
    tables = {"scores": results.merge_rows(measured)} | training
    results.save(p, FRONT, tables, seconds=time.perf_counter() - start, anchors=anchors)


def _ends(p: Params) -> list[int]:
    """Where all models of a run are measured: the shortest length, with the general scores; window; target."""
    return sorted({p.measured_lengths[0], p.window, p.target_length})


def _train(R: recipe.Recipe) -> tuple[dict[str, pd.DataFrame], list[str], dict[str, Trained]]:
    """Train a run: the table of what its stages took, the anchors, and the stages extended and replayed."""
    p, training, anchors = R.params, {}, []
    start, is_new = time.perf_counter(), not R.folder("analysis").exists()
    analysis = R.analyse()
    if analysis is not None:
        anchors = analysis.anchors(p.anchor_count, p.anchor_rule)
        training["token analysis"] = _analysis_compute(R, time.perf_counter() - start if is_new else None)
    extended = R.extend(R.stage_one_set(analysis))
    stages = {"extended": extended, "replayed": R.replay(extended, analysis)}
    n_long = round(p.replay_steps * p.replay_long_share) * p.replay_batch_size * p.train_length
    short = stages["replayed"].n_tokens - n_long
    # The original reads the short samples as well, forward only, where the model is kept near it.
    kl_tokens = short / 3 if p.replay_kl_weight else 0
    training["extended"] = _compute(R, extended, (extended.n_tokens, p.train_length))
    training["replayed"] = _compute(
        R, stages["replayed"], (n_long, p.train_length), (short + kl_tokens, p.short_length)
    )
    table = pd.DataFrame.from_dict(training, orient="index").rename_axis("stage").reset_index()
    return {"training": table}, anchors, stages


def _flops(R: recipe.Recipe, *read: tuple[float, int]) -> float:
    config = models.config_of(R.params.source, R.params.scale)
    return sum(training_flops(config, n, length) for n, length in read)


def _compute(R: recipe.Recipe, stage: Trained, *read: tuple[float, int]) -> dict[str, float]:
    """Seconds, tokens and model FLOPs of a stage; read: tokens and the length of their samples."""
    return {"seconds": stage.seconds, "n_tokens": stage.n_tokens, "flops": _flops(R, *read)}


def _analysis_compute(R: recipe.Recipe, seconds: float | None) -> dict[str, float | None]:
    """What the token analysis takes: H' is trained, then two models read the scored documents (a third of training).

    seconds: of the process that has made it, kept beside it for the runs that share it; None where it was found made.
    """
    p, path = R.params, R.folder("analysis") / "seconds.json"
    if seconds is not None:
        write_text(path, json.dumps(seconds))
    length, scored = p.probe_length or p.probe_window, p.analysis_length or p.probe_window
    probed, read = p.probe_steps * p.probe_batch_size * length, p.analysis_documents * scored
    return {
        "seconds": read_json(path, "delete it") if path.is_file() else None,
        "n_tokens": probed,
        "flops": _flops(R, (probed, length), (read * 2 / 3, scored)),
    }


def _weight(p: Params, how: str) -> float:
    """About how long a run takes, in any unit: tokens times what one costs, training three times what reading does."""

    def cost(n_samples: float, length: int) -> float:
        return n_samples * length * (1.0 + length / 2048)

    # How often the documents of the target's length are read.
    readings = 4.0 if p.method == "none" else {"full": 4.0, "lean": 1.0, "merges": BESIDE * len(MERGES)}[how]
    read = cost(readings * p.eval_documents, p.target_length)
    if p.method == "none":
        return read
    short = (1 - p.replay_long_share) * p.replay_steps * p.replay_batch_size
    long = p.extend_steps * p.extend_batch_size + p.replay_long_share * p.replay_steps * p.replay_batch_size
    return read + 3 * (cost(long, p.train_length) + cost(short, p.short_length))


@contextmanager
def _alone() -> Iterator[None]:
    try:
        with locked(cache_dir() / "sweep", "runs a sweep", wait=False):
            yield
    except BusyError as error:
        raise BusyError(f"{error} The next sweep resumes.") from None
