"""The commits of the models and datasets of a hub that a run reads, kept in the cache."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

from longrecipe.settings import Params
from longrecipe.system.files import read_json, write_text
from longrecipe.system.paths import cache_dir
from longrecipe.system.processes import is_main

log = logging.getLogger(__name__)


def record(params: Params, commits: Mapping[str, str]) -> None:
    """Record the commits that a run reads now, by hub id.

    Logs a warning if the same settings were run with another commit before: the results may differ.
    """
    for name, before in recorded(params).items():
        if (now := commits.get(name, before)) != before:
            log.warning(
                "%s: an earlier run with these settings read commit %s, this one reads %s, so results may differ and "
                "stages start again. To repeat the earlier run, name the revision: %s@%s.",
                *(name, before, now, name, before),
            )
    if commits and is_main():
        write_text(_path(params), json.dumps(commits, indent=1))


def recorded(params: Params) -> dict[str, str]:
    """The commits that a run with these settings read last, by hub id; empty if it read nothing from a hub."""
    path = _path(params)
    return read_json(path, f"delete {path}, and run it again") if path.is_file() else {}


def _path(params: Params) -> Path:
    return cache_dir() / "revisions" / f"{params.key}.json"
