"""The memory that this process has used."""

import re
import sys
from pathlib import Path

import psutil


def peak_bytes() -> int:
    """The peak memory of this process in bytes, since it started."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    # What `resource` reports on Linux is at least the peak of the process that started this one.
    status = Path("/proc/self/status")
    if sys.platform == "linux" and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))):
        return 1024 * int(found[1])
    # This module only exists on Unix, where psutil does not report a peak.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
