"""Files that other processes may read or make at the same time: whole or not there, made once, under a lock."""

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
    """Another process is at work on the same files."""


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_of(path)
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(path: Path, fix: str = "download or save it again") -> Any:
    """The content of a JSON file. Raises ValueError with the path and the fix if it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; {fix}.") from error
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON ({error}); {fix}.") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whole or not at all, with the keys in their order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def temporary_of(path: Path) -> Path:
    """A hidden name next to a path, which no other process uses, for what gets the path's name when it is complete."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}.tmp")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Make a folder whole or not at all: yields an empty folder, which gets the name at the end.

    A folder that has the name already is replaced. If the block fails, nothing of it is left.
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
    """Remove what killed processes left of a path; call it under the path's lock."""
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if left.name.startswith(f".{path.name}.") and left.name.endswith(".tmp"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()


@contextmanager
def locked(path: Path, doing: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder while it is made or changed. It ends with the process, even with a killed one.

    doing: what is done under the lock, such as "reads the text a.txt", for messages. If another process holds the lock,
    a warning says what it does, and this one waits. Without wait, raises BusyError instead.
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
        # A network disk without locks: two runs at a time may make the same files twice.
        log.warning("%s: this disk has no file locks; do not start two runs at the same time", path.parent)
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _lock_of(path: Path) -> Path:
    """The file of a path's lock, which stays: in one folder for all of the cache, elsewhere hidden next to the path."""
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
    """Raise OSError if no files can be written to a folder, which may not be there yet."""
    nearest = next(each for each in (folder, *folder.parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(f"{name}: no files can be written to {folder} ({error.strerror}); choose another.") from error
