"""Results on disk: one folder a run, with its settings, numbers and tables; every figure is made from these.

`python -m longrecipe.results` writes `results/README.md` anew from what is there.
"""

import json
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch

from longrecipe.params import Params
from longrecipe.paths import results_dir, root, write_text

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "numpy")


def run_dir(params: Params, experiment: str = "train") -> Path:
    """The folder of a run: `results/<experiment>/<model>-<method>-<T>-seed<seed>-<key of all settings>`."""
    name = f"{params.model}-{params.method}-{params.target_length}-seed{params.seed}-{params.key}"
    return results_dir() / experiment / name


def save(
    folder: Path, params: Params, numbers: Mapping, seconds: float, tables: Mapping[str, pd.DataFrame] | None = None
) -> Path:
    """Write a run: its tables as CSV, then metrics.json (settings, seed, commit, device, versions, seconds, numbers).

    metrics.json comes last, so a folder that has one is complete. Returns its path.
    """
    for name, table in (tables or {}).items():
        write_text(folder / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
    record = {
        "label": "measured",
        "params": params.model_dump(),
        "seed": params.seed,
        "git_commit": _git_commit(),
        "device": _device(),
        "packages": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "seconds": round(seconds, 1),
        "numbers": numbers,
    }
    write_text(folder / "metrics.json", json.dumps(record, indent=1, default=float) + "\n")
    return folder / "metrics.json"


def load(folder: Path) -> dict:
    """The metrics of a finished run. Raises FileNotFoundError where the run has not finished."""
    path = folder / "metrics.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the run has not finished, or was never started.")
    return json.loads(path.read_text(encoding="utf-8"))


def stage_table(numbers: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a stage from `Report.numbers()`: recall by length, NIAH(M) at the window and the target, perplexity."""
    rows = {}
    for stage, measured in numbers.items():
        row = {f"recall @{length}": values["mean"] for length, values in measured["recall"].items()}
        row |= {f"NIAH(M) @{length}": values["mean"] for length, values in measured["niah_m"].items()}
        rows[stage] = row | {"perplexity": measured["perplexity"]}
    return pd.DataFrame(rows).T.rename_axis("stage")


def summary() -> str:
    """The text of results/README.md: every finished run of the train experiment, a row each."""
    rows = []
    for path in sorted((results_dir() / "train").glob("*/metrics.json")):
        record = load(path.parent)
        params, numbers = record["params"], record["numbers"]
        target = str(params["target_length"])
        for stage, measured in numbers["stages"].items():
            cell = measured["recall"][target]
            recall = f"{cell['mean']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"
            niah = f"{measured['niah_m'][target]['mean']:.3f}"
            cells = (params["model"], params["method"], target, params["seed"], stage, recall, niah)
            rows.append(" | ".join(map(str, (*cells, f"{measured['perplexity']:.2f}"))))
    head = "model | method | T, tokens | seed | stage | recall at T [95 %] | NIAH(M) at T | perplexity at W"
    lines = [
        "# Results",
        "",
        "Written by `python -m longrecipe.results` from the metrics.json of each run; do not edit.",
        "All rows are measured, at scale mini. Recall is that of one of 4 planted facts, its interval a bootstrap over",
        "the documents of one run (not over seeds). `paper/` holds the paper's numbers, quoted.",
        "",
        f"| {head} |",
        "|" + " --- |" * 8,
        *(f"| {row} |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def _git_commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, cwd=root(), capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _device() -> dict:
    if torch.cuda.is_available():
        return {"kind": "cuda", "name": torch.cuda.get_device_name()}
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return {"kind": "cpu", "name": name, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    write_text(results_dir() / "README.md", summary())
