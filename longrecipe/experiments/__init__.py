"""Grids of runs, one after the other: every setting and seed that the paper's tables need, each a folder of results.

`longrecipe sweep methods --models llama3 --seeds 0 1 2`; in a notebook
`experiments.run(experiments.methods("llama3"))`.
What is finished is skipped, a run that was killed goes on from its last checkpoint, and one sweep runs at a time.
"""

from longrecipe.experiments.grids import GRIDS, HOW, ablation, from_notebook, front, methods, ratio
from longrecipe.experiments.runner import folder_of, is_finished, merges, one, run

__all__ = [
    "GRIDS",
    "HOW",
    "ablation",
    "folder_of",
    "from_notebook",
    "front",
    "is_finished",
    "merges",
    "methods",
    "one",
    "ratio",
    "run",
]
