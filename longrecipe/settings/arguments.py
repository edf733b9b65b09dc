"""Settings on a command line: `-p KEY VALUE`, repeatable."""

import argparse


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Give a parser the option -p, as papermill has it."""
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help="override a setting of the params file, or choose a profile; null resets a key; repeatable",
    )


def given_settings(chosen: argparse.Namespace) -> dict[str, str]:
    """What was given by -p, by name, as it was written: `params.load` reads numbers, lists, true, false and null."""
    return dict(chosen.settings)
