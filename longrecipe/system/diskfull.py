"""A full disk, recognised in whatever a library raises, and reported with the folder and the space that is needed."""

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CODES = {errno.ENOSPC, errno.EDQUOT}
# What the writers of safetensors, torch, Arrow and datasets say; they give no error number.
_SAYS = re.compile(
    r"no space left on device|disk quota exceeded|not enough (disk )?space|os error (28|112|122)\b|errno 28\b", re.I
)
# torch's writers do not say why they failed; what is free on the disk does.
_MAY_SAY = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+|iostream error|file write failed", re.I)
# Less than this is no room for a file of a checkpoint.
_LITTLE = 1 << 20


class DiskFullError(OSError):
    """A disk is full: the message names the folder, what is free there, what the run needs and how to fix it."""


@contextmanager
def full_disk_reported(written_to: Callable[[], Mapping[Path, str]], need: Callable[[], float]) -> Iterator[None]:
    """Raise DiskFullError instead of what a library raises if a disk is full; other errors pass.

    written_to: gives the folders that are written to, each with what to do to use another disk. If an error names no
    file, the one with the least free space is reported. need: gives the bytes that are written at most. Both are only
    called after an error.
    """
    try:
        yield
    except DiskFullError:
        raise
    except Exception as error:
        folders = {**written_to(), Path(tempfile.gettempdir()): "set TMPDIR to a folder on another disk"}
        if not _is_full_disk(error, list(folders), need):
            raise
        folder = _folder_of(error, list(folders))
        other = f", or {folders[folder]}" if folder in folders else ""
        raise DiskFullError(
            f"the disk of {folder} is full: {_size(free_bytes(folder))} are free there, and the run writes up to "
            f"{_size(need())} in all (modelled). Free some space{other}; the same command resumes."
        ) from error


def _is_full_disk(error: BaseException, folders: list[Path], need: Callable[[], float]) -> bool:
    for each in _chain(error):
        if (isinstance(each, OSError) and each.errno in _CODES) or _SAYS.search(str(each)):
            return True
        if _MAY_SAY.search(str(each)) and min(map(free_bytes, folders)) < max(_LITTLE, need()):
            return True
    return False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _folder_of(error: BaseException, folders: list[Path]) -> Path:
    """The folder whose disk is full, by the file that the error names, else by what is free."""
    for each in _chain(error):
        # A copy that fails names its source first.
        name = getattr(each, "filename2", None) or getattr(each, "filename", None)
        if isinstance(name, str):
            inside = [folder for folder in folders if Path(name).is_relative_to(folder)]
            return max(inside, key=lambda folder: len(folder.parts), default=Path(name).parent)
    return min(folders, key=free_bytes)


def free_bytes(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which may not be there yet."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _size(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"
