"""Runs on disk, and the tables and claims of one run."""

from longrecipe.results.stages import gain, stage_table, verdict
from longrecipe.results.store import finished, load, load_or_warn, run_dir, save

__all__ = [
    "finished",
    "gain",
    "load",
    "load_or_warn",
    "run_dir",
    "save",
    "stage_table",
    "verdict",
]
