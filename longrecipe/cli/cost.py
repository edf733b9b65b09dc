"""`longrecipe cost`: measure what training costs on this machine."""

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

HELP = "Measure seconds and memory of training steps on this machine."
EXAMPLES = """\
  longrecipe cost mini --minutes 30    # CPU, one thread: mini models, by method, target length and token ratio
  longrecipe cost gpu                  # one GPU of 80 GB, under 9 minutes: the paper's model shapes, random weights
  longrecipe cost gpu --dry-run        # the same code with mini models, about a minute; no GPU needed

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
        "--dry-run", action="store_true", help="run each kind of case with a mini model, and keep no results"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the results here; default: results/resources/WHAT.json"
    )


def run(chosen: argparse.Namespace) -> None:
    """Measure the cases that the file does not contain yet."""
    from longrecipe.cost import runner
    from longrecipe.cost.cases import cases_of, dry_cases
    from longrecipe.system.paths import results_dir

    if chosen.dry_run and (chosen.what != "gpu" or chosen.out):
        chosen.parser.error("--dry-run goes with gpu and without --out: it keeps no results.")
    cases = dry_cases() if chosen.dry_run else cases_of(chosen.what)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) if chosen.dry_run else results_dir() / "resources"
            record = runner.run(cases, chosen.out or place / f"{chosen.what}.json", chosen.minutes)
    except runner.CasesFailedError as error:
        chosen.parser.exit(1, f"{chosen.parser.prog}: {error}\n")
    if chosen.dry_run:
        sys.stdout.write(json.dumps(record, indent=1) + "\n")
