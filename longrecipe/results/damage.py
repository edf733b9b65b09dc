"""Files of results as they are read: whole, or refused with the file's name and the fix."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from longrecipe.settings import Params
from longrecipe.system.files import read_json

# Numbers that `Report.numbers()` has by text length.
BY_LENGTH = ("recall", "niah_m", "tasks")
_STAGE = (*BY_LENGTH, "perplexity", "copying")
# What the tables read of the numbers of an experiment's runs.
_NUMBERS = {
    "train": ("stages",),
    "grid": ("full", "stages"),
    "front": ("merges",),
    "tokens": ("rankings", "stability", "density", "n_tokens"),
    "positions": ("coverage",),
}


def read_record(path: Path, fix: str) -> dict:
    """A JSON object of results. Raises ValueError with the path and the fix if it is not readable or no object."""
    record = read_json(path, fix)
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a JSON object; {fix}.")
    return record


def read_metrics(folder: Path) -> dict:
    """The metrics.json of a run, with lengths as int, as in `Report.numbers()`.

    Raises ValueError with the file and the fix if it is damaged, or if a table next to it is.
    """
    path, fix = folder / "metrics.json", f"delete the folder {folder}, and run it again"
    record = read_record(path, fix)
    try:
        _check(record, folder.parent.name)
        for stage in _reports(record["numbers"]):
            for name in BY_LENGTH:
                stage[name] = {int(length): value for length, value in stage[name].items()}
    except KeyError as error:
        raise ValueError(f"{path} has no {error}; {fix}.") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ValueError(f"{path} has params that cannot be ({wrong}); {fix}.") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {fix}.") from error
    # Runs that were saved before rows were recorded have what is there.
    for name, rows in (record.get("tables") or {file.stem: None for file in sorted(folder.glob("*.csv"))}).items():
        check_table(folder / f"{name}.csv", fix, rows)
    return record


def _reports(numbers: Mapping[str, Any]) -> list[dict]:
    """The numbers of every model that a run measured."""
    return [*numbers.get("stages", {}).values(), *(each["numbers"] for each in numbers.get("merges", ()))]


def _check(record: Mapping[str, Any], experiment: str) -> None:
    """Raise KeyError, TypeError, AttributeError or ValueError if a record lacks what tables read."""
    for key in ("label", "seed", "device", "seconds"):
        record[key]
    record["device"].get("threads")
    Params(**record["params"])
    for key in _NUMBERS.get(experiment, ()):
        record["numbers"][key]
    for stage in _reports(record["numbers"]):
        for key in _STAGE:
            stage[key]
        for each in (*stage["recall"].values(), *stage["niah_m"].values()):
            each["mean"]
    for name, took in record["numbers"].get("training", {}).items():
        for key in ("seconds", "flops") if name == "token analysis" else ("seconds", "flops", "n_tokens"):
            took[key]


def check_table(path: Path, fix: str, rows: int | None = None) -> None:
    """Raise ValueError if a CSV file is cut off: another number of rows, or, if that is not known, a last line without
    an end or a row without all columns."""
    try:
        text = path.read_text(encoding="utf-8")
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{path} cannot be read ({error}); {fix}.") from error
    if rows is not None and len(lines) - 1 != rows:
        raise ValueError(f"{path} has {max(0, len(lines) - 1)} rows instead of {rows}; {fix}.")
    if not lines or not text.endswith("\n") or any(len(line) != len(lines[0]) for line in lines):
        raise ValueError(f"{path} is cut off; {fix}.")


def read_table(path: Path, fix: str, **options: Any) -> pd.DataFrame:
    """A CSV file of results, with options of `pandas.read_csv`. Raises ValueError with the path and the fix if it is
    cut off."""
    check_table(path, fix)
    return pd.read_csv(path, **options)
