"""Results: runs on disk, the paper's tables made from them, and results/README.md.

`python -m longrecipe.results` writes `results/README.md` anew from the finished runs.
"""

from longrecipe.results.runs import finished, load, load_or_warn, run_dir, save, seed_interval
from longrecipe.results.stages import gain, stage_table, verdict
from longrecipe.results.summary import summary

__all__ = [
    "finished",
    "gain",
    "load",
    "load_or_warn",
    "run_dir",
    "save",
    "seed_interval",
    "stage_table",
    "summary",
    "verdict",
]
