"""Measure what training costs on this machine: every case in a process of its own, every result saved at once.

`longrecipe cost` runs this. An interrupted run resumes. A case that does not fit in memory counts as measured; one that
failed for another reason is tried again by the next run.
"""

import json
import logging
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from longrecipe.cost import GB
from longrecipe.cost.cases import Case, Measured, Reading, Resuming
from longrecipe.cost.record import OUT_OF_MEMORY, read_measured
from longrecipe.system.files import write_text

log = logging.getLogger(__name__)
# The part of a record that has the results of a kind of case.
PARTS = {Case: "cases", Reading: "readings", Resuming: "resumes"}


class CasesFailedError(RuntimeError):
    """Cases failed for other reasons than memory."""


def run(cases: Iterable[Measured], path: Path, minutes: float) -> dict:
    """Measure all cases that are not in the file at path yet, each in a separate process, within the given minutes.

    The rates of the machine come first. This process uses no GPU memory, which the cases need.
    Returns the record at path. Raises ValueError if the file is damaged or from another kind of machine, and
    CasesFailedError at the end if cases failed for other reasons than memory; these are not recorded.
    """
    cases, end, failed = list(cases), time.perf_counter() + 60 * minutes, {}
    record = read_measured(path) if path.is_file() else _machine()
    for key, value in _machine().items():
        if key in ("device", "threads") and record.get(key) != value:
            raise ValueError(
                f"{path} was measured with {key} {record.get(key)}, this is {value}, and times of different machines "
                "cannot be compared: choose another file with --out, or delete this one to measure all cases again."
            )
    if "rates" not in record:
        paper = any(case.scale == "paper" for case in cases)
        shapes = {"scale": "paper", "n_tokens": 38400} if paper else {"scale": "mini", "n_tokens": 4096}
        found, why = _in_process({"kind": "rates"} | shapes, end - time.perf_counter())
        if found is None:
            raise CasesFailedError(f"the rates of this machine could not be measured ({why or 'the time is up'}).")
        record |= {"rates": found, "cases": {}}
        write_text(path, json.dumps(record, indent=1) + "\n")
    for case in tqdm([case for case in cases if not _is_measured(record, case)], desc="measured"):
        left = end - time.perf_counter()
        if left < 60:
            log.warning("%s and later cases are left for another run: the time is up", case.name)
            break
        settings = asdict(case)
        found, why = _in_process({"kind": type(case).__name__} | settings, left)
        if found is not None:
            results = {"n_tokens": case.n_tokens, "measured": found}
            record.setdefault(PARTS[type(case)], {})[case.name] = settings | results
            write_text(path, json.dumps(record, indent=1) + "\n")
        elif why is None:
            log.warning("%s was stopped: the time is up", case.name)
            break
        else:
            failed[case.name] = why
            log.warning("%s failed (%s)", case.name, why)
    if failed:
        listed = "; ".join(f"{name} ({why})" for name, why in failed.items())
        raise CasesFailedError(f"{len(failed)} cases failed; the next run tries them again: {listed}")
    return record


def _in_process(job: Mapping, seconds: float) -> tuple[dict | None, str | None]:
    """What `_one_case` prints for a job, or None and why it failed (None if the time was up)."""
    command = [sys.executable, "-m", "longrecipe.cost._one_case", json.dumps(job)]
    try:
        done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds)
    except subprocess.TimeoutExpired:
        return None, None
    try:
        found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (ValueError, IndexError):
        found = None
    if isinstance(found, dict):
        return found, None
    lines = done.stderr.strip().splitlines() or ["no message"]
    return None, f"exit status {done.returncode}: {lines[-1][:300]}"


def _is_measured(record: Mapping, case: Measured) -> bool:
    """Whether a record has a result of a case: its numbers, or that it ran out of memory."""
    found = record.get(PARTS[type(case)], {}).get(case.name, {}).get("measured", {"error": ""})
    return "error" not in found or OUT_OF_MEMORY in found["error"].lower()


def _machine() -> dict:
    about = {"label": "measured", "torch": torch.__version__, "transformers": transformers.__version__}
    about |= {"python": platform.python_version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return about | {"device": card.name, "memory_gb": card.total_memory / GB}
    return about | {"device": platform.machine(), "threads": 1}
