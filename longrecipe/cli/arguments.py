"""Arguments that several commands share."""

import argparse


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that describe one run: --params, -p and --out."""
    parser.add_argument(
        "--params", metavar="FILE", required=True, help="the settings of the run, a YAML file such as params/own.yaml"
    )
    add_settings(parser)
    parser.add_argument(
        "--out", metavar="FOLDER", help="write the extended model to this folder; the same as `-p out FOLDER`"
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the option -p, which has the form that papermill uses."""
    parser.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("KEY", "VALUE"),
        dest="settings",
        help="override a setting of the params file, such as `-p ratio 0.1`, or choose a profile, such as "
        "`-p profile cpu`; `null` resets a setting; repeatable",
    )


def overrides(chosen: argparse.Namespace) -> dict[str, str]:
    """The settings given by -p and --out, by name, as text: `settings.load` reads numbers, lists, true, false and
    null."""
    out = getattr(chosen, "out", None)
    return dict(chosen.settings) | ({"out": out} if out else {})
