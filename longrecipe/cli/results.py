"""`longrecipe results`: write the tables, figures and summary of all finished runs."""

import argparse

HELP = "Write the finished runs of this machine to the tables, figures and README.md of results/."
EXAMPLES = """\
  longrecipe results
"""
INTERRUPTED = "the same command starts again"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no arguments."""


def run(chosen: argparse.Namespace) -> None:
    """Write the tables, figures and summary."""
    from longrecipe.experiments.collect import collect

    collect()
