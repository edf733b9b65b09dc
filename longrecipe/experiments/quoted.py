"""The paper's numbers, quoted: the CSV files of results/paper."""

import pandas as pd

from longrecipe.results.committed import read_csv
from longrecipe.system.paths import results_dir

# General scores of the paper's Tables 1 and 3.
GENERAL = ("mmlu", "gsm8k", "humaneval")


def read(table: str) -> pd.DataFrame:
    """A table of the paper by the name of its file in results/paper, such as `table1_methods`."""
    return read_csv(results_dir() / "paper" / f"{table}.csv")
