"""Runs in processes of their own, each forked from one that has imported everything, so that a trial takes seconds."""

import json
import multiprocessing
import os
import secrets
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

from campaign import disturbed
from campaign.digests import digest
from campaign.disturbed import Place
from campaign.faults import Counter, Fault

# A safety net: about ten times the usual duration of a run.
TIMEOUT = 300.0


@dataclass(frozen=True)
class Exit:
    """How a run ended: finished, error, killed or hung; with its error, what it left, and its file operations."""

    how: str
    error: str = ""
    message: str = ""
    trace: str = ""
    digest: dict[str, str] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)
    seconds: float = 0.0


def start_server() -> multiprocessing.context.BaseContext:
    """The context whose processes are forked from a server that has everything imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["campaign.preload"])
    # The server keeps the environment it starts with; it does not get this process's sys.path.
    ours = {"TOKENIZERS_PARALLELISM": "false"}
    with mock.patch.dict(os.environ, ours | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
        forkserver.ensure_running()
    return context


def run(
    context: multiprocessing.context.BaseContext,
    place: Place,
    work: str = "recipe",
    fault: Fault | None = None,
    checks_disk: bool = True,
    timeout: float = TIMEOUT,
) -> Exit:
    """Do one of `disturbed.WORK` in a place; checks_disk: whether it may refuse a small disk before it starts."""
    # Runs may share a place.
    report = place.folder / f"report-{secrets.token_hex(4)}.json"
    process = context.Process(target=_child, args=(place, work, fault, checks_disk, report))
    start = time.monotonic()
    process.start()
    process.join(timeout)
    if process.exitcode is None:
        process.kill()
        process.join()
        return Exit("hung", message=f"still running after {timeout:.0f} s", seconds=timeout)
    seconds = time.monotonic() - start
    if process.exitcode == -signal.SIGKILL:
        return Exit("killed", seconds=seconds)
    if not report.is_file():
        log = (place.folder / "log.txt").read_text(errors="replace")[-3000:]
        return Exit("error", "exit", f"exit status {process.exitcode} without a report", log, seconds=seconds)
    return Exit(**json.loads(report.read_text()), seconds=seconds)


def _child(place: Place, work: str, fault: Fault | None, checks_disk: bool, report: Path) -> None:
    os.setsid()
    log = os.open(place.folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    disturbed.enter(place)
    if not checks_disk:
        # The disk fills up while a run works, which no check before it can see.
        disturbed.recipe.preflight.check_disk = lambda *given: None
    counter = Counter(place.written, fault)
    counter.start()
    try:
        disturbed.WORK[work](place)
        counter.stop()
        told = {"how": "finished", "digest": digest(place), "operations": counter.log}
    except BaseException as error:
        counter.stop()
        kinds = " ".join(kind.__name__ for kind in type(error).__mro__)
        told = {"how": "error", "error": kinds, "message": str(error), "trace": traceback.format_exc()}
    report.write_text(json.dumps(told))
    sys.stdout.flush()
    # Not through the exit handlers: what matters is done.
    os._exit(0)
