"""Runs of this machine: a folder of the cache for each, with its record and figures. `results.finished` finds them."""

import functools
import json
import logging
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from longrecipe.results import revisions
from longrecipe.results.run import Run, as_record, complete, of_record, run_name, typed
from longrecipe.settings import Params, key_of
from longrecipe.system.diskfull import full_disk_reported
from longrecipe.system.files import read_json, write_text
from longrecipe.system.paths import PACKAGE, cache_dir

log = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def run_dir(params: Params, experiment: str = "train") -> Path:
    """The folder of a run of this machine: `<cache>/runs/<experiment>/<name>`, see `run_name`."""
    return cache_dir() / "runs" / experiment / run_name(params, experiment)


def grid_dir(grid: Iterable[Params]) -> Path:
    """The folder for the figures of several runs together: `<cache>/runs/figures/<key of their keys>`."""
    return cache_dir() / "runs" / "figures" / key_of({"runs": [p.key for p in grid]})


def save(
    params: Params,
    experiment: str,
    tables: Mapping[str, pd.DataFrame],
    *,
    seconds: float,
    full: bool = True,
    anchors: Iterable[str] = (),
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write the record of a run, metrics.json: settings, commit, device, versions, seconds, rows. Returns its folder.

    tables: see `run.TABLES`; columns that are not there are left out. full, anchors: see `Run`.
    versions: further entries of its packages.
    Raises ValueError if a table or a column is missing.
    """
    folder = run_dir(params, experiment)
    run = Run(
        experiment=experiment,
        name=folder.name,
        settings=params.model_dump(),
        full=full,
        seconds=round(seconds, 1),
        git_commit=_git_commit(),
        device=_device(),
        packages={"python": platform.python_version()}
        | {name: version(name) for name in _PACKAGES}
        | revisions.recorded(params)
        | dict(versions or {}),
        anchors=list(anchors),
        tables={name: typed(table, name) for name, table in tables.items()},
    )
    text = json.dumps(as_record(complete(run)), allow_nan=False) + "\n"
    other = {folder: "move the folder to another disk and set LONGRECIPE_CACHE to it"}
    with full_disk_reported(lambda: other, lambda: len(text.encode())):
        write_text(folder / "metrics.json", text)
    return folder


def load(folder: Path) -> Run:
    """The run of a folder. Raises FileNotFoundError if it has not finished, and ValueError with the file and the fix if
    its record is damaged."""
    path, fix = folder / "metrics.json", f"delete the folder {folder}, and run it again"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or was never started.")
    record = read_record(path, fix)
    try:
        return of_record(record)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}; {fix}.") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({'; '.join(str(error).splitlines())}); {fix}.") from error


def read_record(path: Path, fix: str) -> dict[str, Any]:
    """A JSON file that holds an object. Raises ValueError with the path and the fix if it does not."""
    record = read_json(path, fix)
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a JSON object; {fix}.")
    return record


def stored(experiment: str) -> list[Run]:
    """The finished runs of an experiment in the cache, oldest first. Damaged ones are left out, with a warning."""
    paths = (cache_dir() / "runs" / experiment).glob("*/metrics.json")
    states = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in paths)
    return [run for time, size, path in states if (run := _load_or_warn(path, time, size)) is not None]


@functools.lru_cache(maxsize=1024)
def _load_or_warn(path: Path, time: int, size: int) -> Run | None:
    """As `load`; None with a warning if the record is damaged. time, size: of the file, which is read once."""
    try:
        return load(path.parent)
    except ValueError as error:
        log.warning("damaged run, left out: %s", error)
        return None


def _git_commit() -> str:
    """The commit of the code that runs; the package's version if it does not run from a checkout of this repository."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=PACKAGE.parent, capture_output=True, encoding="utf-8", check=True)
        return done.stdout.strip()

    try:
        # An installed package may be in another repository, as in a virtual environment there.
        if Path(git("rev-parse", "--show-toplevel")).resolve() == PACKAGE.parent:
            git("ls-files", "--error-unmatch", f"{PACKAGE.name}/system/paths.py")
            return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.CalledProcessError):
        pass
    try:
        return f"longrecipe {version('longrecipe')}"
    except PackageNotFoundError:
        return "unknown"


def _device() -> dict:
    if torch.cuda.is_available():
        return {"kind": "cuda", "name": torch.cuda.get_device_name()}
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return {"kind": "cpu", "name": name, "threads": torch.get_num_threads()}
