"""`longrecipe cost`: measure what training costs on this machine."""

import argparse
import logging
from pathlib import Path

HELP = "Measure seconds and memory of training steps on this machine."
EXAMPLES = """\
  longrecipe cost mini --minutes 30    # CPU, one thread: mini models, by method, target length and token ratio
  longrecipe cost gpu                  # one GPU of 80 GB, under 9 minutes: the paper's model shapes, random weights

Measured cases are skipped, so the same command resumes. Notebooks 04, 05 and 07 read the results.
"""
INTERRUPTED = "the same command resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to measure, the time limit and the file of the results."""
    parser.add_argument("what", choices=("mini", "gpu"), help="which cases to measure; see the examples")
    parser.add_argument(
        "--minutes", type=float, default=8.5, help="stop before this many minutes have passed; default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results here; default: results/resources/WHAT.json"
    )


def run(chosen: argparse.Namespace) -> None:
    """Measure the cases that the file does not contain yet."""
    from longrecipe.cost import measure
    from longrecipe.cost.cases import cases_of
    from longrecipe.system.paths import results_dir

    cases = cases_of(chosen.what)
    path = chosen.out or results_dir() / "resources" / f"{chosen.what}.json"
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    try:
        measure.run(cases, path, chosen.minutes)
    except measure.CasesFailedError as error:
        chosen.parser.exit(1, f"{chosen.parser.prog}: {error}\n")
