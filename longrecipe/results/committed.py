"""The tables of results/: runs.csv with a row per run, and a parquet file per table with the rows of all runs.

A run's settings in runs.csv are those that differ from settings.json, which has the most frequent value of each.
"""

import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from longrecipe.results.run import EXPERIMENTS, TABLES, Run, complete, empty, typed
from longrecipe.system.errors import reason
from longrecipe.system.files import new_file, read_json, write_json, write_text
from longrecipe.system.paths import results_dir

_INDEX, _USUAL = "runs.csv", "settings.json"
_FILES = (_INDEX, _USUAL, *(f"{name}.parquet" for name in TABLES))
_FIX = "restore it with `git checkout -- results`"


def read() -> list[Run]:
    """The runs of results/. Raises ValueError with the file and the fix if a table is missing or damaged."""
    folder = results_dir()
    paths = [folder / name for name in _FILES]
    # The files are read once, and again if one of them has changed.
    states = [(path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in paths]
    return _read(folder, tuple(states)) if any(states) else []


@functools.lru_cache(maxsize=4)
def _read(folder: Path, states: tuple) -> list[Run]:
    path = folder / _INDEX
    # A commit may look like a number.
    index = read_csv(path, dtype={"git_commit": str}, keep_default_na=False)
    groups = {name: _by_run(folder / f"{name}.parquet") for name in TABLES}
    usual = read_json(folder / _USUAL, _FIX)
    try:
        runs = [_run(row, groups, usual) for row in index.to_dict("records")]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} or a table next to it is damaged ({reason(error)}); {_FIX}.") from error
    known = {(run.experiment, run.name) for run in runs}
    for name, each in groups.items():
        if unknown := each.keys() - known:
            raise ValueError(f"{path} is damaged: it lacks run {min(unknown)[1]} of {name}.parquet; {_FIX}.")
    return runs


def _by_run(path: Path) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of a table by experiment and run."""
    try:
        table = pd.read_parquet(path)
        groups = typed(table, path.stem).groupby([table["experiment"], table["run"]], sort=False)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}); {_FIX}.") from error
    return {key: rows.reset_index(drop=True) for key, rows in groups}


def _run(
    row: Mapping[str, Any],
    groups: Mapping[str, Mapping[tuple[str, str], pd.DataFrame]],
    usual: Mapping[str, Any],
) -> Run:
    """The run of a row of runs.csv. Raises ValueError if a table has not as many rows of it as are recorded."""
    key, tables = (row["experiment"], row["run"]), {}
    for name, n_rows in json.loads(row["rows"]).items():
        tables[name] = groups[name][key] if key in groups[name] else empty(name)
        if len(tables[name]) != n_rows:
            raise ValueError(f"{name}.parquet has {len(tables[name])} rows of run {row['run']} instead of {n_rows}")
    return complete(
        Run(
            experiment=row["experiment"],
            name=row["run"],
            settings=usual | json.loads(row["settings"]),
            full=row["full"],
            seconds=row["seconds"],
            git_commit=row["git_commit"],
            device=json.loads(row["device"]),
            packages=json.loads(row["packages"]),
            anchors=json.loads(row["anchors"]),
            tables=tables,
        )
    )


def write(runs: Sequence[Run]) -> None:
    """Write the tables of results/ from all runs."""
    folder = results_dir()
    folder.mkdir(parents=True, exist_ok=True)
    runs = sorted(runs, key=lambda run: (list(EXPERIMENTS).index(run.experiment), run.name))
    for name, columns in TABLES.items():
        own = [run.tables[name].assign(experiment=run.experiment, run=run.name) for run in runs if name in run.tables]
        table = pd.concat(own, ignore_index=True) if own else empty(name).assign(experiment="", run="")
        with new_file(folder / f"{name}.parquet") as temporary:
            table[["experiment", "run", *columns]].to_parquet(temporary, index=False, compression="zstd")
    # All settings are written, so that a later change of a default leaves them as they were.
    settings = [run.params.model_dump(mode="json") for run in runs]
    usual = {name: _most_frequent([each[name] for each in settings]) for name in (settings[0] if settings else ())}
    differ = [{name: value for name, value in each.items() if value != usual[name]} for each in settings]
    write_json(folder / _USUAL, usual)
    index = [_about(run) | {"settings": json.dumps(each)} for run, each in zip(runs, differ, strict=True)]
    write_text(folder / _INDEX, pd.DataFrame(index).to_csv(index=False, lineterminator="\n"))


def _most_frequent(values: Sequence[Any]) -> Any:
    """The most frequent of these values, which may be lists; of several, the first."""
    return json.loads(Counter(map(json.dumps, values)).most_common(1)[0][0])


def _about(run: Run) -> dict[str, Any]:
    """The row of a run in runs.csv, without its settings."""
    p = run.params
    return {
        "experiment": run.experiment,
        "run": run.name,
        "key": run.key,
        **{name: getattr(p, name) for name in ("model", "method", "target_length", "seed")},
        **{name: getattr(run, name) for name in ("full", "seconds", "git_commit")},
        "anchors": json.dumps(run.anchors),
        "rows": json.dumps({name: len(table) for name, table in run.tables.items()}),
        **{name: json.dumps(getattr(run, name)) for name in ("device", "packages")},
    }


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """A CSV file of results/, with options of `pandas.read_csv`.

    Raises ValueError with the path and the fix if it cannot be read.
    """
    try:
        return pd.read_csv(path, **options)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}); {_FIX}.") from error
