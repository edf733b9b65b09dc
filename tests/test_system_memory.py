"""The peak memory of a process."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from longrecipe.system import memory


@pytest.mark.parametrize(
    ("platform", "status", "expected"),
    [
        ("linux", "VmPeak:\t 9 kB\nVmHWM:\t    6 kB\n", 1024 * 6),
        ("linux", "VmSize:\t 9 kB\n", 1024 * 7),
        ("darwin", None, 7),
        ("win32", None, 5),
    ],
)
def test_peak_memory_is_in_bytes_on_every_system(platform, status, expected, monkeypatch):
    used, info = SimpleNamespace(ru_maxrss=7), SimpleNamespace(peak_wset=5)
    monkeypatch.setattr(memory.sys, "platform", platform)
    monkeypatch.setattr(memory.Path, "read_text", lambda path, encoding: status)
    monkeypatch.setitem(sys.modules, "resource", SimpleNamespace(getrusage=lambda who: used, RUSAGE_SELF=0))
    monkeypatch.setattr(memory.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: info))
    assert memory.peak_bytes() == expected


def test_peak_memory_is_not_that_of_the_process_that_starts_it():
    held = b"x" * 2**30
    code = "from longrecipe.system.memory import peak_bytes; print(peak_bytes())"
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 2**20 < peak < len(held)
