"""What a run has made, as hashes: two runs with equal digests have equal weights, losses, scores and numbers."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import load_from_disk

from campaign.disturbed import Place

# What differs between two runs that are equal otherwise.
_CHANGES = {"seconds", "training_seconds", "git_commit", "out"}
# Every run makes these again, or does not read them.
_IGNORED = {"seconds.json", "trainer_state.json", "training_args.bin", "CACHEDIR.TAG"}
# Figures of equal numbers differ in what their writer adds; locks hold nothing.
_IGNORED_KINDS = {".png", ".svg", ".pdf", ".lock", ".owner"}


def digest(place: Place) -> dict[str, str]:
    """A hash of the meaning of every file that a finished run has left, by its name; hidden files do not count."""
    found = {}
    for top in place.written:
        for path in sorted(top.rglob("*")):
            if not (path.is_dir() or _is_hidden(path, top) or path.name in _IGNORED or path.suffix in _IGNORED_KINDS):
                name = path.relative_to(place.folder)
                try:
                    found |= {str(key): _hash(content) for key, content in _contents(path, name)}
                except Exception as error:
                    # Damaged by the campaign, and not read by the run.
                    found[str(name)] = f"unreadable: {error}"
    return found


def _contents(path: Path, name: Path) -> Iterator[tuple[Path, bytes]]:
    """What a file says, by name: rows of a set and scores by document may be cut into files in several ways."""
    if path.suffix == ".arrow" or path.name == "state.json":
        return
    if path.name == "dataset_info.json":
        yield name.parent, json.dumps(load_from_disk(str(path.parent))[:]).encode()
    elif path.suffix == ".parquet":
        for row in pq.read_table(path).to_pylist():
            yield name.parent / row["key"], json.dumps(row).encode()
    else:
        yield name, _content(path)


def _content(path: Path) -> bytes:
    if path.suffix == ".json":
        try:
            return json.dumps(_without_changes(json.loads(path.read_text()))).encode()
        except ValueError:
            pass
    return path.read_bytes()


def _without_changes(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"columns", "rows"}:
        # A table.
        value = [dict(zip(value["columns"], row, strict=True)) for row in value["rows"]]
    if isinstance(value, dict):
        return {key: _without_changes(each) for key, each in value.items() if key not in _CHANGES}
    return [_without_changes(each) for each in value] if isinstance(value, list) else value


def _is_hidden(path: Path, top: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(top).parts)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def differences(wanted: dict[str, str], found: dict[str, str], damaged: Path | None = None) -> list[str]:
    """What differs between two digests, in words; damaged: a file that may stay so, as nothing has read it."""
    if damaged:
        wanted, found = ({k: v for k, v in each.items() if not damaged.is_relative_to(k)} for each in (wanted, found))
    told = [f"{name} is missing" for name in wanted.keys() - found.keys()]
    told += [f"{name} is new" for name in found.keys() - wanted.keys()]
    told += [f"{name} differs" for name in wanted.keys() & found.keys() if wanted[name] != found[name]]
    return sorted(told)
