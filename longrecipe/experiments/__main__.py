"""The command line of the sweep: a grid by name, its models, seeds and targets."""

import argparse
import logging

import datasets
import transformers
from tqdm.auto import tqdm

from longrecipe.command import messages
from longrecipe.experiments.grids import GRIDS, HOW, SETS
from longrecipe.experiments.runner import folder_of, is_finished, run
from longrecipe.settings import Params, ParamsError, add_settings, given_settings


def main(arguments: list[str] | None = None) -> None:
    """The command line: a grid by name, its models, seeds and targets; --dry-run lists what is left."""
    parser = argparse.ArgumentParser(
        prog="python -m longrecipe.experiments", description="Grids of runs, for the paper's tables."
    )
    parser.add_argument(
        "grid", choices=GRIDS, help="methods: Tables 1, 3; ablation: Table 2; ratio: Figure 2; front: merges"
    )
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: all three for methods, else llama3")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="default: 0 1 2, methods on llama3 0 to 4")
    parser.add_argument("--targets", nargs="+", type=int, metavar="T", help="target lengths, tokens (methods only)")
    parser.add_argument("--scale", default="mini", help="of the params files: mini (default), small or paper")
    add_settings(parser)
    parser.add_argument("--force", action="store_true", help="run what is finished, too")
    parser.add_argument("--dry-run", action="store_true", help="only list the runs, and which are finished")
    chosen = parser.parse_args(arguments)
    if chosen.targets and chosen.grid != "methods":
        parser.error("--targets is for the grid methods; the others run at the target of the params file")
    with messages(parser):
        grid = _grid(chosen)
        if chosen.dry_run:
            for p in dict.fromkeys(grid):
                state = "finished" if is_finished(p, HOW[chosen.grid]) else "left"
                tqdm.write(f"{state:10}{folder_of(p, HOW[chosen.grid]).name}")
            return
        # One bar is enough; the progress of every single load would bury it.
        transformers.utils.logging.disable_progress_bar()
        datasets.disable_progress_bars()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
        logging.getLogger("httpx").setLevel(logging.WARNING)
        run(grid, HOW[chosen.grid], chosen.force)


def _grid(chosen: argparse.Namespace) -> list[Params]:
    """The settings of the grid that a command line asks for. Raises ParamsError if they cannot be run."""
    options = {"models": chosen.models, "targets": chosen.targets, "seeds": chosen.seeds}
    changes = {"scale": chosen.scale} | given_settings(chosen)
    if taken := changes.keys() & (SETS[chosen.grid] | {"model", "models", "seeds", "targets"}):
        raise ParamsError(f"-p {', '.join(sorted(taken))}: the grid sets it, or --models, --seeds, --targets do.")
    return GRIDS[chosen.grid](**{name: value for name, value in options.items() if value}, **changes)


if __name__ == "__main__":
    main()
