"""A finished run: its settings, what it ran on, and its rows in the tables of results."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from longrecipe.settings import Params, checked

# The tables of results: the type of each column. A run has rows in those that its experiment fills.
TEXT, NUMBER, COUNT, TRUTH = "object", "float64", "int64", "bool"
# What has no interval counts no prompts, and not every stage counts its tokens.
COUNT_IF_KNOWN = "Int64"
_COVERAGE = ("mean_distance", "contiguous_run", "reach", "visited_by_one", "visited_by_all")
_COVERAGE += ("distances_by_one", "distances_by_all", "unevenness")
_DENSITIES = ("anchors per 1,000 tokens", "times random", "segments kept")
_INTERVAL = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}
TABLES = {
    # rule and weight: of merging, in runs that merge by several. Perplexity and copying have no interval.
    "scores": {"stage": TEXT, "rule": TEXT, "weight": NUMBER, "length": COUNT, "task": TEXT}
    | _INTERVAL
    | {"prompts": COUNT_IF_KNOWN},
    "training": {"stage": TEXT, "seconds": NUMBER, "n_tokens": COUNT_IF_KNOWN, "flops": NUMBER},
    # depth: fifth of the text, 0 at its start. count: prompts.
    "depths": {"task": TEXT, "length": COUNT, "depth": COUNT, "mean": NUMBER, "count": COUNT, "stage": TEXT},
    # tokens: all, or those that need long context (LongPPL). loss: the mean of `count` tokens of a document, in nats.
    "losses": {"stage": TEXT, "tokens": TEXT, "document": COUNT, "start": COUNT, "end": COUNT}
    | {"count": COUNT, "loss": NUMBER},
    # The mean of the prompts of a task that were asked about one document.
    "documents": {"stage": TEXT, "task": TEXT, "length": COUNT, "document": COUNT, "mean": NUMBER, "count": COUNT},
    "gains": {"measure": TEXT, "length": COUNT, "gain": NUMBER, "low": NUMBER, "high": NUMBER, "documents": COUNT},
    # by: class or pos. positions: all, or those beyond the window of the base.
    "rankings": {"by": TEXT, "positions": TEXT, "type": TEXT, "count": COUNT, "share_of_all": NUMBER}
    | {f"{name}{end}": NUMBER for name in ("share_of_top", "lift", "mean_shift") for end in ("", "_low", "_high")}
    | {"sum_shift": NUMBER, "frequent": TRUTH},
    # Mean shifts of parts of speech inside the window of the base and beyond it, and their difference.
    "rises": {"type": TEXT} | dict.fromkeys(("inside", "beyond", "rise", "rise_low", "rise_high"), NUMBER),
    "stability": {"by": TEXT, "positions": TEXT, "spearman": NUMBER, "n_tokens": COUNT},
    "shares": {"by": TEXT, "position": NUMBER, "type": TEXT, "share": NUMBER},
    "densities": {"selection": TEXT} | dict.fromkeys(_DENSITIES, NUMBER),
    "coverage": {"method": TEXT} | dict.fromkeys(_COVERAGE, NUMBER),
    # Standard benchmarks: a row for each prompt. length: 0 if it is not chosen. cut: it did not fit into the window.
    "benchmarks": {"stage": TEXT, "suite": TEXT, "task": TEXT, "length": COUNT, "filter": TEXT, "prompt": COUNT}
    | {"score": NUMBER, "tokens": COUNT, "cut": TRUTH},
}
# The tables without which a run of an experiment is damaged.
EXPERIMENTS = {
    "train": {"scores"},
    "grid": {"scores", "depths"},
    "front": {"scores"},
    "steps": {"scores"},
    "beyond": {"scores", "depths"},
    "real": {"scores", "losses", "documents"},
    "tokens": {"rankings", "stability", "shares", "densities"},
    "positions": {"coverage"},
    "bench": {"benchmarks"},
}


@dataclass(frozen=True)
class Run:
    """A finished run.

    name: of its folder when it was made, see `run_name`. settings: as recorded, without those that did not exist then.
    full: whether everything was measured that the tables of methods need. anchors: the token types that sentences were
    selected by. packages: versions of Python and its packages, and commits of the models and datasets that were read
    from a hub. tables: its rows by table, see TABLES.
    """

    experiment: str
    name: str
    settings: Mapping[str, Any]
    full: bool
    seconds: float
    git_commit: str
    device: Mapping[str, Any]
    packages: Mapping[str, str]
    anchors: list[str]
    tables: Mapping[str, pd.DataFrame]

    @property
    def key(self) -> str:
        """The key of its settings when it was made, which ends its name."""
        return self.name.rpartition("-")[2]

    @functools.cached_property
    def params(self) -> Params:
        """The settings, with the schema's defaults for those that did not exist when the run was made.

        Raises ValueError if the schema does not accept them.
        """
        return checked(Params, self.settings, source=f"run {self.name}")

    @functools.cached_property
    def identity(self) -> str:
        """The name that a run with these settings gets today. Runs with the same identity are the same run."""
        return run_name(self.params, self.experiment)

    def table(self, name: str) -> pd.DataFrame:
        """The rows of the run in a table; no rows if its experiment does not fill it."""
        return self.tables[name] if name in self.tables else empty(name)


def run_name(params: Params, experiment: str) -> str:
    """The name of a run: `<model>-<method>-<T>-seed<seed>-<key of the settings it reads>`.

    Token analysis and positions read no settings of the stages after the first, and only standard benchmarks read
    their own.
    """
    keys = {"tokens": params.stage_key("extend"), "positions": params.stage_key("extend"), "bench": params.bench_key}
    key = keys.get(experiment, params.key)
    return f"{params.model}-{params.method_slug}-{params.target_length}-seed{params.seed}-{key}"


def empty(name: str) -> pd.DataFrame:
    """A table without rows."""
    return pd.DataFrame(columns=list(TABLES[name])).astype(TABLES[name])


def typed(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table with exactly the columns and types of TABLES. Raises ValueError if columns or values are missing."""
    columns = TABLES[name]
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"table {name} has no column {missing[0]}")
    for column, kind in columns.items():
        if kind not in (NUMBER, COUNT_IF_KNOWN) and column != "rule" and table[column].isna().any():
            raise ValueError(f"table {name} has rows without {column}")
    return table[list(columns)].astype(columns)


def as_record(run: Run) -> dict[str, Any]:
    """A run as a JSON object; what is not a finite number is null."""
    record = {field.name: getattr(run, field.name) for field in fields(run)}
    for name, table in run.tables.items():
        values = table.astype(object).where(table.notna(), None)
        record["tables"] = record["tables"] | {name: {"columns": list(table), "rows": values.to_numpy().tolist()}}
    return json.loads(json.dumps(record, default=float), parse_constant=lambda name: None)


def of_record(record: Mapping[str, Any]) -> Run:
    """The run of a JSON object of `as_record`. Raises KeyError, TypeError, AttributeError or ValueError for another."""
    tables = {}
    for name, each in record["tables"].items():
        if any(len(row) != len(each["columns"]) for row in each["rows"]):
            raise ValueError(f"table {name} has rows of another length")
        tables[name] = typed(pd.DataFrame(each["rows"], columns=each["columns"]), name)
    run = Run(**{field.name: record[field.name] for field in fields(Run)} | {"tables": tables})
    return complete(run)


def complete(run: Run) -> Run:
    """A run that has what tables read. Raises KeyError, TypeError, AttributeError or ValueError if it does not."""
    if missing := EXPERIMENTS[run.experiment] - run.tables.keys():
        raise ValueError(f"run {run.name} has no table {sorted(missing)[0]}")
    run.device.get("threads"), run.identity
    return run
