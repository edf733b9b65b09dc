"""Recognise a full disk in the errors of libraries, and report it with the folder and the space that is needed."""

import errno
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_CODES = {errno.ENOSPC, errno.EDQUOT}
# Messages of safetensors, torch, Arrow and datasets, which give no error number.
_SAYS = re.compile(
    r"no space left on device|disk quota exceeded|not enough (disk )?space|os error (28|112|122)\b|errno 28\b", re.I
)
# torch does not say why writing failed, so the free space on the disk decides.
_MAY_SAY = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+|iostream error|file write failed", re.I)
# Files of a checkpoint need more than this.
_LITTLE = 1 << 20


class DiskFullError(OSError):
    """A disk is full: the message names the folder, what is free there, what the run needs and how to fix it."""


@contextmanager
def full_disk_reported(written_to: Callable[[], Mapping[Path, str]], need: Callable[[], float]) -> Iterator[None]:
    """Raise DiskFullError instead of a library's error if a disk is full. Other errors are not changed.

    written_to: returns the folders that are written to, each with advice on how to use another disk. If an error names
    no file, the folder with the least free space is reported. need: returns the most bytes that are written. Both are
    only called after an error.
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
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _folder_of(error: BaseException, folders: list[Path]) -> Path:
    """The folder whose disk is full: that of the file in the error, or the one with the least free space."""
    for each in _chain(error):
        # If copying fails, filename is the source.
        name = getattr(each, "filename2", None) or getattr(each, "filename", None)
        if isinstance(name, str):
            inside = [folder for folder in folders if Path(name).is_relative_to(folder)]
            return max(inside, key=lambda folder: len(folder.parts), default=Path(name).parent)
    return min(folders, key=free_bytes)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, which may not exist yet."""
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _size(n_bytes: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= size:
            return f"{n_bytes / size:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"
