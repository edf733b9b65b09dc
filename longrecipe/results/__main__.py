"""Write results/README.md."""

import argparse

from longrecipe.command import messages
from longrecipe.experiments.summary import summary
from longrecipe.system.files import write_text
from longrecipe.system.paths import results_dir


def main(arguments: list[str] | None = None) -> None:
    """The command line: no arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m longrecipe.results", description="Write results/README.md from the finished runs."
    )
    parser.parse_args(arguments)
    with messages(parser):
        write_text(results_dir() / "README.md", summary())


if __name__ == "__main__":
    main()
