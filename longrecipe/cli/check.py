"""`longrecipe check`: check a run without starting it."""

import argparse
import logging
import sys

from longrecipe.cli.arguments import add_run, overrides

log = logging.getLogger(__name__)

HELP = "Check a run without starting it: settings, model, text, memory and disk."
EXAMPLES = """\
  longrecipe check --params own.yaml
  longrecipe check --params params/paper/llama3.yaml --gpu-gb 80 --host-gb 128
  longrecipe check --reference

The second example asks whether the run would fit on another machine. It checks the settings, the model and the
memory, but not the text, the disk or the installed packages. Exit status 0 means that the run can start.
"""
INTERRUPTED = "nothing was changed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --params, -p, --out, the sizes of another machine, and --reference."""
    add_run(parser)
    parser.add_argument(
        "--gpu-gb", type=float, metavar="GB", help="memory of one GPU of another machine; default: of the GPU here"
    )
    parser.add_argument("--host-gb", type=float, metavar="GB", help="main memory of the machine; default: of this one")
    parser.add_argument("--reference", action=_Reference, nargs=0, help="print all settings with comments, and stop")


class _Reference(argparse.Action):
    """Print the reference of all settings and exit, as --help does: no other argument is needed."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from longrecipe import settings

        sys.stdout.write(settings.reference())
        parser.exit()


def run(chosen: argparse.Namespace) -> None:
    """Log what the run needs, and whether it can start."""
    from longrecipe import settings
    from longrecipe.recipe import preflight
    from longrecipe.recipe.memory import check_memory

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    p = settings.load(chosen.params, **overrides(chosen))
    log.info("%s", check_memory(p, gpu_gb=chosen.gpu_gb, host_gb=chosen.host_gb))
    is_here = chosen.gpu_gb is None
    preflight.check(p, fetch=False, here=is_here)
    if is_here:
        log.info("checked: the run can start")
    else:
        log.info("checked for another machine: settings, model and memory; not checked: text, disk, packages, speed")
