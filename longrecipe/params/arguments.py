"""Settings on a command line: `-p KEY VALUE`, repeatable."""

import argparse
from typing import Any

import yaml

from longrecipe.errors import reason
from longrecipe.params.files import ParamsError


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option -p, as papermill has it."""
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help="override a setting of the params file, or choose a profile; repeatable",
    )


def given_settings(chosen: argparse.Namespace) -> dict[str, Any]:
    """What was given by -p, by name: numbers, true, null and lists by YAML. Raises ParamsError for invalid YAML."""
    settings = {}
    for key, value in chosen.settings:
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ParamsError(f"-p {key} {value}: not valid YAML ({reason(error)}); put text in quotes.") from error
    return settings
