"""Atomic files and locks, for files that several processes may read or make at the same time."""

import hashlib
import json
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from longrecipe.system.paths import cache_dir

log = logging.getLogger(__name__)


class BusyError(RuntimeError):
    """Another process is working on the same files."""


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def read_json(path: Path, fix: str = "download or save it again") -> Any:
    """The content of a JSON file. Raises ValueError with the path and the fix if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {fix}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); {fix}.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with the keys in their order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def temporary_of(path: Path) -> Path:
    """A hidden name next to a path, unique to this process, for a file or folder that is renamed to the path later."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Make a file atomically: yields a name to write to, which is renamed to the path at the end.

    An existing file is replaced. If the block fails, what it has written is removed.
    """
    temporary = temporary_of(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder atomically: yields an empty folder, which is renamed to the path at the end.

    An existing folder is replaced. If the block fails, the new folder is removed.
    """
    temporary = temporary_of(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove temporary files of a path that killed processes left behind. Call it under the path's lock."""
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def locked(path: Path, doing: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder while it is made or changed. A killed process releases its lock.

    doing: what is done under the lock, for messages, such as "reads the text a.txt". If another process holds the lock,
    a warning says what it does, and this process waits. Without wait, BusyError is raised instead.
    """
    place = _lock_of(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(place), place.with_suffix(".owner")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        number = _read(owner)
        process = f"process {number}" if number else "another process"
        if not wait:
            raise BusyError(f"{process} {doing} ({path}): wait for it, or stop it.") from None
        log.warning("%s %s (%s): waiting until it has finished", process, doing, path)
        lock.acquire()
    except NotImplementedError:
        # On a network disk without locks, two runs may make the same files twice.
        log.warning("%s: this disk has no file locks; do not start two runs at the same time", path.parent)
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _lock_of(path: Path) -> Path:
    """The lock file of a path, which is never deleted: in one folder for the cache, else hidden next to the path."""
    cache, path = cache_dir(), Path(os.path.abspath(path))
    if not path.is_relative_to(cache):
        return path.with_name(f".{path.name}.lock")
    digest = hashlib.sha256(str(path.relative_to(cache)).encode()).hexdigest()
    return cache / ".locks" / f"{path.name}-{digest[:10]}.lock"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def check_writable(folder: Path, name: str) -> None:
    """Raise OSError if no files can be written to a folder, which may not exist yet."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(f"{name}: no files can be written to {folder} ({error.strerror}); choose another.") from error
