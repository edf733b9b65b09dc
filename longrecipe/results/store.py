"""Results on disk: one folder a run, with its settings, numbers and tables; every figure is made from these."""

import json
import logging
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch

from longrecipe.results.damage import read_metrics
from longrecipe.settings import Params
from longrecipe.system.diskfull import full_disk_reported
from longrecipe.system.files import write_text
from longrecipe.system.paths import PACKAGE, results_dir

log = logging.getLogger(__name__)
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def run_dir(params: Params, experiment: str = "train") -> Path:
    """The folder of a run: `results/<experiment>/<model>-<method>-<T>-seed<seed>-<key of the settings it reads>`.

    Token analysis and positions read no settings of the stages after the first.
    """
    key = params.stage_key("extend") if experiment in ("tokens", "positions") else params.key
    name = f"{params.model}-{params.method_slug}-{params.target_length}-seed{params.seed}-{key}"
    return results_dir() / experiment / name


def save(
    folder: Path, params: Params, numbers: Mapping, seconds: float, tables: Mapping[str, pd.DataFrame] | None = None
) -> Path:
    """Write a run: its tables as CSV, then metrics.json (settings, seed, commit, device, versions, seconds, rows of the
    tables, numbers; what is not a finite number is null).

    metrics.json comes last, so a folder that has one is complete. Returns its path.
    """
    tables = tables or {}
    record = {
        "label": "measured",
        "params": params.model_dump(),
        "seed": params.seed,
        "git_commit": _git_commit(),
        "device": _device(),
        "packages": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "seconds": round(seconds, 1),
        "tables": {name: len(table) for name, table in tables.items()},
        "numbers": numbers,
    }
    # Through text once, so that numpy's numbers are plain; JSON knows no NaN.
    plain = json.loads(json.dumps(record, default=float), parse_constant=lambda name: None)
    texts = {f"{name}.csv": to_csv(table, index=False) for name, table in tables.items()}
    texts["metrics.json"] = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    need = sum(len(text.encode()) for text in texts.values())
    # New tables next to the numbers of an earlier run would be two runs in one folder.
    (folder / "metrics.json").unlink(missing_ok=True)
    with full_disk_reported(lambda: {folder: "move the repository to another disk"}, lambda: need):
        for name, text in texts.items():
            write_text(folder / name, text)
    return folder / "metrics.json"


def to_csv(table: pd.DataFrame, index: bool = True) -> str:
    """A table as text of a CSV file, six digits a number, the same on every system."""
    return table.to_csv(index=index, float_format="%.6g", lineterminator="\n")


def load(folder: Path) -> dict:
    """The metrics of a finished run; lengths are int, as in `Report.numbers()`.

    Raises FileNotFoundError if the run has not finished, and ValueError with the file and the fix if metrics.json or a
    table is damaged.
    """
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or was never started.")
    return read_metrics(folder)


def load_or_warn(folder: Path) -> dict | None:
    """As `load`, but None with a warning if the run is damaged, and None if it has not finished."""
    if not (folder / "metrics.json").is_file():
        return None
    try:
        return load(folder)
    except ValueError as error:
        log.warning("damaged run, left out: %s", error)
        return None


def finished(experiment: str, **wanted: object) -> list[tuple[Path, dict]]:
    """The finished runs of an experiment whose settings have the wanted values: their folders and metrics, by name.

    Damaged runs are left out, with a warning.
    """
    folders = sorted(path.parent for path in (results_dir() / experiment).glob("*/metrics.json"))
    runs = [(folder, record) for folder in folders if (record := load_or_warn(folder)) is not None]
    return [run for run in runs if all(run[1]["params"].get(key) == value for key, value in wanted.items())]


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
