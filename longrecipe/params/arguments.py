"""Settings on a command line: `-p KEY VALUE`, as often as one likes."""

import argparse
from typing import Any

import yaml


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option -p, as papermill has it."""
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help="another value of a key of the params file, or a profile, as often as you like",
    )


def given_settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """What was given by -p, by name: numbers, true, null and lists by YAML."""
    return {key: yaml.safe_load(value) for key, value in chosen.settings}
