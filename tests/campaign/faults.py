"""Faults inside a run: it counts its file operations, and at a chosen one it kills itself or fills its disk."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

# Events of Python's own calls; native writers (safetensors, torch, Arrow) raise none.
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BALLOON = ".balloon"


@dataclass(frozen=True)
class Fault:
    """What happens to a run, and when.

    action: kill, or fill, which takes all that is free in `disk`. at: before the file operation of that number. after:
    seconds, from the start if at is None, else from that operation, which may kill within a native writer.
    """

    action: str
    at: int | None = None
    after: float = 0.0
    disk: str = ""


class Counter:
    """Counts the file operations of this process below some folders, and makes a fault happen."""

    def __init__(self, folders: tuple[Path, ...], fault: Fault | None):
        self.count, self.log = 0, []
        self._folders, self._fault = tuple(f"{folder}/" for folder in folders), fault
        self._is_off = False

    def start(self) -> None:
        sys.addaudithook(self._see)
        if self._fault and self._fault.at is None:
            self._later()

    def stop(self) -> None:
        """Count no more; the fault does not happen any more, either."""
        self._is_off = True

    def _see(self, event: str, args: tuple) -> None:
        if self._is_off or not (event == "open" or event in _EVENTS):
            return
        if event == "open" and not (args[2] or 0) & _WRITES:
            return
        path = _path_of(event, args)
        if not f"{path}/".startswith(self._folders):
            return
        self.count += 1
        self.log.append(f"{event} {path}")
        if self._fault and self._fault.at == self.count:
            if self._fault.after:
                self._later()
            else:
                self._happen()

    def _later(self) -> None:
        def wait() -> None:
            time.sleep(self._fault.after)
            if not self._is_off:
                self._happen()

        threading.Thread(target=wait, daemon=True).start()

    def _happen(self) -> None:
        if self._fault.action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        self._is_off, was_off = True, self._is_off
        fill(Path(self._fault.disk))
        self._is_off = was_off


def fill(disk: Path) -> None:
    """Take all that is free on a disk, as another program would."""
    with (disk / BALLOON).open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def _path_of(event: str, args: tuple) -> str:
    path, folder = args[0], -1
    if event in ("os.remove", "os.rmdir"):
        folder = args[1]
    elif event in ("os.mkdir", "os.rename"):
        folder = args[2]
    if isinstance(path, int) or path is None:
        return ""
    path = os.fsdecode(path)
    if os.path.isabs(path):
        return path
    try:
        return os.path.join(os.getcwd() if folder in (-1, None) else os.readlink(f"/proc/self/fd/{folder}"), path)
    except OSError:
        return path
