"""`longrecipe sweep`: all runs behind a table or figure of the paper."""

import argparse
import logging
import shlex
from typing import TYPE_CHECKING

from longrecipe.cli.arguments import add_settings, overrides

if TYPE_CHECKING:
    from longrecipe.experiments import Experiment
    from longrecipe.settings import Params

HELP = "Run all settings and seeds behind a table or figure of the paper."
EXAMPLES = """\
  longrecipe sweep table1 --models llama3 --seeds 0 1 2
  longrecipe sweep figure2 --dry-run
  longrecipe sweep table1 --scale small --models smollm2 --seeds 0 -p text LONG_TEXT

A sweep takes hours. It skips finished runs, so it can be stopped at any time. Only one sweep can run at a time, so that
seconds can be compared. On a cluster, --commands prints a command for each run that is left; these can run at the same
time, and resume as well.
"""
INTERRUPTED = "the same command resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the experiment, its models, seeds and targets, -p, --force and --dry-run."""
    parser.add_argument(
        "experiment",
        metavar="EXPERIMENT",
        help="table1 (methods), table2 (parts of the recipe), table3 (stages; the runs of table1), figure2 (token "
        "ratio), fronts (trade-off between long and short text, over the strength of replay and merging), steps "
        "(scores during stage 1), weights (loss weights at equal compute), control (the same on harder text), real "
        "(SmolLM2 on long text), growth (the same by training tokens) or factors (RoPE factors without training)",
    )
    parser.add_argument("--models", nargs="+", metavar="MODEL", help="default: llama3; for table1 all mini models")
    parser.add_argument(
        "--seeds", nargs="+", type=int, metavar="SEED", help="default: 0 1 2; for table1 on llama3 0 1 2 3 4"
    )
    parser.add_argument(
        "--targets", nargs="+", type=int, metavar="T", help="target lengths in tokens, for table1; default: 2560 4096"
    )
    parser.add_argument(
        "--scale",
        help="folder of params files: mini, small or paper; default: mini, for real, growth and factors small",
    )
    add_settings(parser)
    parser.add_argument("--force", action="store_true", help="repeat finished runs as well")
    parser.add_argument("--only", metavar="RUN", help="only the run of this name, as --dry-run lists it")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, say which are finished, and stop")
    parser.add_argument(
        "--commands", action="store_true", help="print a command for each run that is left, such as for SLURM, and stop"
    )


def run(chosen: argparse.Namespace) -> None:
    """Run the grid of the experiment, or list its runs."""
    from longrecipe.experiments import EXPERIMENTS

    experiment = EXPERIMENTS.get(chosen.experiment)
    if experiment is None:
        choices = ", ".join(EXPERIMENTS)
        chosen.parser.error(f"argument EXPERIMENT: invalid choice: {chosen.experiment!r} (choose from {choices})")
    if chosen.targets and not experiment.targets:
        chosen.parser.error(f"--targets is for table1; {experiment.name} runs at the target of the params file")
    if chosen.commands:
        _print_commands(experiment, chosen)
        return
    grid = _grid(chosen, experiment, chosen.models)
    if chosen.dry_run:
        _list(grid, experiment)
    else:
        _quiet()
        experiment.run(grid, force=chosen.force, alone=chosen.only is None)


def _list(grid: "list[Params]", experiment: "Experiment") -> None:
    from tqdm.auto import tqdm

    from longrecipe.results import run_name

    for p in dict.fromkeys(grid):
        state = "finished" if experiment.is_finished(p) else "left"
        tqdm.write(f"{state:10}{run_name(p, experiment.protocol.store)}")


def _print_commands(experiment: "Experiment", chosen: argparse.Namespace) -> None:
    """Print a command for each run that is left, with everything that it needs."""
    from longrecipe.results import run_name

    shared = ["--scale", chosen.scale] if chosen.scale else []
    shared += [word for key, value in chosen.settings for word in ("-p", key, value)]
    # A model may be a params file, which the run does not know.
    runs = {p: model for model in chosen.models or experiment.models for p in _grid(chosen, experiment, [model])}
    for p, model in runs.items():
        if chosen.force or not experiment.is_finished(p):
            own = ["--models", model, "--seeds", str(p.seed)]
            own += ["--targets", str(p.target_length)] if experiment.targets else []
            own += ["--only", run_name(p, experiment.protocol.store), *(["--force"] if chosen.force else [])]
            print(shlex.join(["longrecipe", "sweep", experiment.name, *shared, *own]))


def _quiet() -> None:
    """Log the runs, and show no progress bar but that of the sweep: those of libraries would bury it."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _grid(chosen: argparse.Namespace, experiment: "Experiment", models: list[str] | None) -> "list[Params]":
    """The settings that a command line asks for, of some models. Raises ParamsError if they cannot be run."""
    from longrecipe.results import run_name
    from longrecipe.settings import ParamsError

    changes = overrides(chosen)
    scale = {} if chosen.scale is None else {"scale": chosen.scale}
    if taken := changes.keys() & {"model", "models", "seeds", "targets", "scale"}:
        raise ParamsError(f"-p {', '.join(sorted(taken))}: use --models, --seeds, --targets or --scale.")
    experiment.check(changes)
    grid = experiment.grid(models, seeds=chosen.seeds, targets=chosen.targets, **scale, **changes)
    if chosen.only is None:
        return grid
    only = [p for p in grid if run_name(p, experiment.protocol.store) == chosen.only]
    if not only:
        raise ParamsError(f"--only {chosen.only}: the grid has no such run; --dry-run lists its runs.")
    return only
