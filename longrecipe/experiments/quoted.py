"""Quoted numbers: the paper's in results/paper, and other projects' in results/published_speeds.csv."""

import pandas as pd

from longrecipe.results.committed import read_csv
from longrecipe.system.paths import results_dir

# General scores of the paper's Tables 1 and 3.
GENERAL = ("mmlu", "gsm8k", "humaneval")


def read(table: str) -> pd.DataFrame:
    """A table of the paper by the name of its file in results/paper, such as `table1_methods`."""
    return read_csv(results_dir() / "paper" / f"{table}.csv")


def published_speeds() -> pd.DataFrame:
    """Speeds of training on long samples that other projects publish, each with its source."""
    return read_csv(results_dir() / "published_speeds.csv")
