"""Command lines: what the user can fix is one message and exit status 1, never a traceback."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from longrecipe import cost
from longrecipe.system.files import BusyError
from longrecipe.train.guard import SkippedPositionsError

# Any other error, such as a RuntimeError of PyTorch, keeps its traceback.
FIXABLE = (ValueError, OSError, ImportError, MemoryError, BusyError, cost.DoesNotFitError, SkippedPositionsError)
FIXABLE += (torch.OutOfMemoryError,)


@contextmanager
def messages(parser: argparse.ArgumentParser, resumes: str = "the same command resumes") -> Iterator[None]:
    """Run the work of a command line. It exits with status 1 and the message of an error that the user can fix, and
    with status 130 on Ctrl-C.

    resumes: what happens to interrupted work, for the message of Ctrl-C.
    """
    try:
        yield
    except FIXABLE as error:
        parser.exit(1, f"{parser.prog}: {str(error) or type(error).__name__}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; {resumes}\n")
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # A process that leaves its group open may abort at its exit.
            torch.distributed.destroy_process_group()
