"""Processes that train together: which one writes, and how the others wait for what it makes."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from longrecipe.system.files import locked, remove_leftovers


def n_processes() -> int:
    """How many processes train together, as torchrun and accelerate say; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this is the process that writes files: the first of all."""
    return int(os.environ.get("RANK", 0)) == 0


def made_once(path: Path, make: Callable[[], object], doing: str) -> Path:
    """Let the main process make a file or folder that is not there yet; the others wait for it. Returns path.

    make must put path in place whole, by a rename. If another run makes the same path, the main process waits until it
    has finished; doing: what the other one does then, for the message. The other processes of this run wait for the
    file and not in a collective call, which would time out: large sets take hours. If the main process dies, the
    launcher stops those that wait.
    """
    if not path.exists() and is_main():
        with locked(path, doing):
            if not path.exists():
                remove_leftovers(path)
                make()
    while not path.exists():
        time.sleep(0.5)
    return path
