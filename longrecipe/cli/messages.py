"""Errors on the command line: one that the user can fix is one message and exit status 1, never a traceback."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def messages(parser: argparse.ArgumentParser, interrupted: str) -> Iterator[None]:
    """Run the work of a command. Exit with status 1 and the message of an error that the user can fix, and with
    status 130 on Ctrl-C.

    interrupted: what the user can do after Ctrl-C, such as "the same command resumes".
    """
    try:
        yield
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: interrupted; {interrupted}\n")
    except Exception as error:
        if not _is_fixable(error):
            raise
        parser.exit(1, f"{parser.prog}: {str(error) or type(error).__name__}\n")
    finally:
        _leave_group()


def _is_fixable(error: Exception) -> bool:
    """Whether the message of an error says what to do. A RuntimeError of PyTorch, for instance, keeps its traceback."""
    if isinstance(error, ValueError | OSError | ImportError | MemoryError):
        return True
    import torch

    from longrecipe.cost import DoesNotFitError
    from longrecipe.system.files import BusyError
    from longrecipe.train.guard import SkippedPositionsError

    return isinstance(error, BusyError | DoesNotFitError | SkippedPositionsError | torch.OutOfMemoryError)


def _leave_group() -> None:
    """Close the group of processes: one that is left open may abort the process when it exits."""
    torch = sys.modules.get("torch")
    if torch and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
