"""Run the settings of a grid that have not finished yet, one after the other."""

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from tqdm.auto import tqdm

from longrecipe import recipe, results
from longrecipe.experiments.protocols import FULL, Protocol
from longrecipe.settings import Params
from longrecipe.system.files import BusyError, locked
from longrecipe.system.paths import cache_dir

log = logging.getLogger(__name__)


def run(grid: Iterable[Params], protocol: Protocol, *, force: bool = False, alone: bool = True) -> None:
    """Run every setting of a grid that has not finished yet, and save its results.

    Finished runs are skipped, and an interrupted run resumes from its last checkpoint.

    Args:
        protocol: how the runs are trained and measured.
        force: train and measure finished runs again as well; only token analyses are kept.
        alone: whether no other sweep may run in the same cache: two would share the processors, and their seconds would
            mean nothing. Otherwise only the same runs are refused, for jobs on several machines.

    Raises BusyError if another sweep is running.
    """
    left = [p for p in dict.fromkeys(grid) if force or not is_finished(p, protocol)]
    if not left:
        return
    total = sum(_weight(p, protocol) for p in left)
    names = ["sweep"] if alone else [f"sweep-{results.run_name(p, protocol.store)}" for p in left]
    with _alone(names), tqdm(total=total, bar_format="{desc} {percentage:3.0f}%|{bar}|") as bar:
        start = time.perf_counter()
        for i, p in enumerate(left):
            name = results.run_name(p, protocol.store)
            passed = time.perf_counter() - start
            minutes = f"{passed / bar.n * (total - bar.n) / 60:.0f} minutes left" if bar.n else "time left not known"
            bar.set_description_str(f"{i} of {len(left)} runs, {minutes}; now {name}")
            log.info("%d of %d runs done, %s; now %s", i, len(left), minutes, name)
            if force:
                _forget(p)
            # A run that was measured in full is not replaced by a lean one.
            _run(p, FULL if protocol.store == FULL.store and is_finished(p, FULL) else protocol)
            bar.update(_weight(p, protocol))


def is_finished(p: Params, protocol: Protocol) -> bool:
    """Whether a run has finished, with everything that a protocol measures: a lean run is no full one.

    A damaged run has not finished, which gives a warning, so that a sweep repeats it.
    """
    found = results.find(p, protocol.store)
    return found is not None and (found.full or not protocol.full)


def _run(p: Params, protocol: Protocol) -> None:
    start = time.perf_counter()
    found = protocol.measure(recipe.prepare(p))
    seconds = time.perf_counter() - start
    results.save(p, protocol.store, found.tables, seconds=seconds, full=found.full, anchors=found.anchors)


def _forget(p: Params) -> None:
    """Remove what a run has trained."""
    prepared = recipe.prepare(p)
    for stage in ("extend", "replay"):
        shutil.rmtree(prepared.folder(stage), ignore_errors=True)


def _weight(p: Params, protocol: Protocol) -> float:
    """About how long a run takes, in any unit: tokens times what one costs, training three times what reading does."""

    def cost(n_samples: float, length: int) -> float:
        return n_samples * length * (1.0 + length / 2048)

    readings = FULL.readings if p.method == "none" else protocol.readings
    read = cost(readings * p.eval_documents, p.target_length)
    if p.method == "none":
        return read
    short = (1 - p.replay_long_share) * p.replay_steps * p.replay_batch_size
    long = p.extend_steps * p.extend_batch_size + p.replay_long_share * p.replay_steps * p.replay_batch_size
    return read + 3 * (cost(long, p.train_length) + cost(short, p.short_length))


@contextmanager
def _alone(names: Iterable[str]) -> Iterator[None]:
    try:
        with ExitStack() as locks:
            for name in names:
                locks.enter_context(locked(cache_dir() / name, "runs a sweep", wait=False))
            yield
    except BusyError as error:
        raise BusyError(f"{error} The next sweep resumes.") from None
