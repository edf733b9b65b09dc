"""What `longrecipe cost` measured, read from results/resources."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrecipe.claims import NOT_MEASURED
from longrecipe.results.store import read_record
from longrecipe.settings.memory import Setup
from longrecipe.system.errors import reason
from longrecipe.system.paths import results_dir

OUT_OF_MEMORY = "out of memory"


def record_of(name: str) -> dict | None:
    """results/resources/<name>.json, of `longrecipe cost <name>` (mini or gpu); None if nothing was measured.

    Raises ValueError for other names, and with the file and the fix if it is damaged.
    """
    if name not in ("mini", "gpu"):
        raise ValueError(f"record {name!r}: allowed are mini and gpu.")
    path = results_dir() / "resources" / f"{name}.json"
    return read_measured(path) if path.is_file() else None


def read_measured(path: Path) -> dict:
    """A file of `longrecipe cost`. Raises ValueError with the file and the fix if it is damaged."""
    fix = f"delete it, and run `longrecipe cost {path.stem}` again"
    record = read_record(path, fix)
    try:
        record["device"], record["rates"]["matmul_flops"]
        for case in record["cases"].values():
            if "error" not in case["measured"]:
                case["measured"]["seconds_per_step"]
            for key in ("model", "scale", "method", "target_length", "n_tokens", "ratio", "batch_size", "setup"):
                case[key]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({reason(error)} is missing or wrong); {fix}.") from error
    return record


def measured_cell(record: Mapping | None, key: str, setup: Setup, **wanted: Any) -> float | str:
    """A value that a record measured with a setup and the wanted settings (model, n_tokens, ...), or why there is none:
    not measured, out of memory, failed."""
    for case in record["cases"].values() if record else ():
        # Older records lack settings that were added later.
        if Setup(**case["setup"]) == setup and all(case[name] == value for name, value in wanted.items()):
            found = case["measured"]
            if key in found:
                return found[key]
            return OUT_OF_MEMORY if "out of memory" in found.get("error", "") else "failed"
    return NOT_MEASURED


def step_shares(
    record: Mapping | None, model: str, target_length: int, method: str = "longrecipe"
) -> dict[float, float]:
    """Seconds of a step in percent of FLT's by token ratio, FLT's own at 1.0, as `longrecipe cost mini` measured them
    one after the other on one machine. Empty if model and method were not measured at this target."""
    seconds = {}
    for case in record["cases"].values() if record else ():
        asked = (case["model"], case["target_length"]) == (model, target_length) and case["method"] in (method, "flt")
        if asked and "error" not in case["measured"]:
            ratio = 1.0 if case["method"] == "flt" else case["ratio"]
            seconds[ratio] = case["measured"]["seconds_per_step"]
    return {ratio: 100 * took / seconds[1.0] for ratio, took in seconds.items()} if 1.0 in seconds else {}
