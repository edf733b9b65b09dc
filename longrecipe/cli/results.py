"""`longrecipe results`: write the tables of all finished runs."""

import argparse

HELP = "Write results/README.md, the tables of all finished runs."
EXAMPLES = """\
  longrecipe results
"""
INTERRUPTED = "the same command starts again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(chosen: argparse.Namespace) -> None:
    """Write the tables."""
    from longrecipe.experiments.summary import summary
    from longrecipe.system.files import write_text
    from longrecipe.system.paths import results_dir

    write_text(results_dir() / "README.md", summary())
