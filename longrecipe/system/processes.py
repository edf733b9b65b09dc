"""Processes that train together: which one writes files, and how the others wait for them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from longrecipe.system.files import locked, remove_leftovers


def n_processes() -> int:
    """How many processes train together, as set by torchrun and accelerate; 1 without them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def local_rank() -> int:
    """The number of this process on its machine, which is the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
    """Whether this is the first process, which writes files."""
    return int(os.environ.get("RANK", 0)) == 0


def made_once(path: Path, make: Callable[[], object], doing: str) -> Path:
    """Let the main process make a file or folder if it does not exist. The other processes wait for it. Returns path.

    `make` must create path atomically (write elsewhere, then rename). If another run makes the same path, the main
    process waits for that run. doing: what the other run does, for the message. The other processes of this run poll
    for the file, because a collective call would time out: large sets take hours. If the main process dies, the
    launcher stops the waiting ones.
    """
    if not path.exists() and is_main():
        with locked(path, doing):
            if not path.exists():
                remove_leftovers(path)
                make()
    while not path.exists():
        time.sleep(0.5)
    return path
