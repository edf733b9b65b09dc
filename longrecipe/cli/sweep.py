"""`longrecipe sweep`: all runs behind a table or figure of the paper."""

import argparse
import logging
from typing import TYPE_CHECKING

from longrecipe.cli.arguments import add_settings, overrides

if TYPE_CHECKING:
    from longrecipe.settings import Params

HELP = "Run all settings and seeds behind a table or figure of the paper."
EXAMPLES = """\
  longrecipe sweep methods --models llama3 --seeds 0 1 2
  longrecipe sweep ratio --dry-run
  longrecipe sweep methods --scale small --models smollm2 --seeds 0 -p text LONG_TEXT

A sweep takes hours. It skips finished runs, so it can be stopped at any time. Only one sweep can run at a time.
"""
INTERRUPTED = "the same command resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the grid, its models, seeds and targets, -p, --force and --dry-run."""
    parser.add_argument(
        "grid",
        metavar="GRID",
        help="methods (Tables 1 and 3), ablation (Table 2), ratio (Figure 2) or front (strength of replay and merging)",
    )
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", help="default: llama3; for methods llama3, qwen2 and mistral"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: 0 1 2; for methods on llama3 0 1 2 3 4"
    )
    parser.add_argument(
        "--targets", nargs="+", type=int, metavar="T", help="target lengths in tokens, for methods; default: 2560 4096"
    )
    parser.add_argument(
        "--scale", default="mini", help="folder of params files: mini, small or paper; default: %(default)s"
    )
    add_settings(parser)
    parser.add_argument("--force", action="store_true", help="repeat finished runs as well")
    parser.add_argument("--dry-run", action="store_true", help="list the runs and whether they are finished, and stop")


def run(chosen: argparse.Namespace) -> None:
    """Run the grid, or list its runs."""
    from longrecipe.experiments import runner
    from longrecipe.experiments.grids import GRIDS, HOW

    if chosen.grid not in GRIDS:
        chosen.parser.error(f"argument GRID: invalid choice: {chosen.grid!r} (choose from {', '.join(GRIDS)})")
    if chosen.targets and chosen.grid != "methods":
        chosen.parser.error("--targets is for the grid methods; the others run at the target of the params file")
    grid, how = _grid(chosen), HOW[chosen.grid]
    if chosen.dry_run:
        _list(grid, how)
    else:
        _quiet()
        runner.run(grid, how, chosen.force)


def _list(grid: "list[Params]", how: str) -> None:
    from tqdm.auto import tqdm

    from longrecipe.experiments.runner import folder_of, is_finished

    for p in dict.fromkeys(grid):
        tqdm.write(f"{'finished' if is_finished(p, how) else 'left':10}{folder_of(p, how).name}")


def _quiet() -> None:
    """Log the runs, and show no progress bar but that of the sweep: those of libraries would bury it."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _grid(chosen: argparse.Namespace) -> "list[Params]":
    """The settings of the grid that a command line asks for. Raises ParamsError if they cannot be run."""
    from longrecipe.experiments.grids import GRIDS, SETS
    from longrecipe.settings import ParamsError

    options = {"models": chosen.models, "targets": chosen.targets, "seeds": chosen.seeds}
    changes = {"scale": chosen.scale} | overrides(chosen)
    if taken := changes.keys() & (SETS[chosen.grid] | {"model", "models", "seeds", "targets"}):
        raise ParamsError(f"-p {', '.join(sorted(taken))}: the grid sets it, or --models, --seeds, --targets do.")
    return GRIDS[chosen.grid](**{name: value for name, value in options.items() if value}, **changes)
