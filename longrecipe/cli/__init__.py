"""The command line: `longrecipe train | check | bench | push | sweep | results | cost`.

Each command is a module with HELP, EXAMPLES and INTERRUPTED (what to do after Ctrl-C), `add_arguments(parser)` and
`run(chosen)`. These modules import torch and transformers only when they run, so that help and errors are immediate.
"""

import argparse
from collections.abc import Sequence

from longrecipe import __version__
from longrecipe.cli import bench, check, cost, push, results, sweep, train
from longrecipe.cli.messages import messages

COMMANDS = {
    "train": train,
    "check": check,
    "bench": bench,
    "push": push,
    "sweep": sweep,
    "results": results,
    "cost": cost,
}

START = """start here:
  cp params/own.yaml own.yaml              # then name your model and your text in it
  longrecipe check --params own.yaml       # seconds: is there anything that would stop the run?
  longrecipe train --params own.yaml       # train, and write the extended model

`longrecipe COMMAND --help` explains a command. `python -m longrecipe` does the same as `longrecipe`.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; without one, print the help.

    arguments: None takes the words after the program's name. Exits with status 1 and one message if something fails
    that the user can fix, and with status 2 if the arguments are wrong.
    """
    chosen = parser().parse_args(arguments)
    if "module" not in chosen:
        chosen.parser.print_help()
        return
    with messages(chosen.parser, chosen.module.INTERRUPTED):
        chosen.module.run(chosen)


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. It gives the chosen command's module and parser as well; without a command, only its
    own parser."""
    top = argparse.ArgumentParser(
        prog="longrecipe",
        description="Extend the context window of a language model by LongRecipe (arXiv 2409.00509).",
        epilog=START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"longrecipe {__version__}")
    top.set_defaults(parser=top)
    commands = top.add_subparsers(title="commands", metavar="COMMAND")
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"examples:\n{module.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(module=module, parser=command)
    return top
