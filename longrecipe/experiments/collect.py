"""Turn the finished runs of this machine into results/: tables, figures and README.md."""

import shutil
from pathlib import Path

from longrecipe import results, settings
from longrecipe.experiments import figure2, fronts, table1, table2, table3
from longrecipe.experiments.summary import summary
from longrecipe.system.files import write_text
from longrecipe.system.paths import results_dir


def collect() -> None:
    """Write the rows of all finished runs to the tables of results/, copy the figures of `figures`, write README.md."""
    results.collect()
    (results_dir() / "figures").mkdir(exist_ok=True)
    for path in figures():
        if path.is_file():
            shutil.copyfile(path, results_dir() / "figures" / path.name)
    write_text(results_dir() / "README.md", summary())


def figures() -> list[Path]:
    """The figures that results/figures holds, as the notebooks save them in the cache when run as they are."""
    default = settings.load("llama3")
    stages = table3.EXPERIMENT.grid("llama3", targets=default.target_length)
    folders = {
        results.run_dir(default, "tokens"): ("figure4",),
        results.run_dir(default, "positions"): ("maps", "figure3"),
        results.run_dir(default, "train"): ("recall",),
        results.grid_dir(table1.EXPERIMENT.grid("llama3")): ("methods", "depths"),
        results.grid_dir([*stages, *fronts.EXPERIMENT.grid()]): ("stages", "fronts"),
        results.grid_dir([*table2.EXPERIMENT.grid(), *figure2.EXPERIMENT.grid()]): ("ratios", "cost"),
    }
    return [folder / "figures" / f"{name}.png" for folder, names in folders.items() for name in names]
