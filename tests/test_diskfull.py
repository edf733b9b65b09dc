import errno
import os

import pytest
from safetensors import SafetensorError

from longrecipe.system import diskfull
from longrecipe.system.diskfull import DiskFullError, full_disk_reported

RAISED = {
    "ENOSPC": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "EDQUOT": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "safetensors": SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "Arrow": OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
    "datasets": OSError("Not enough disk space. Needed: 12 GB"),
    "Windows": SafetensorError("I/O error: There is not enough space on the disk. (os error 112)"),
}
TORCH = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 320 vs 214")


def raised(error, folders, need=lambda: 3e9):
    with full_disk_reported(lambda: folders, need):
        raise error


@pytest.mark.parametrize("name", RAISED)
def test_full_disk_is_recognised_in_errors_of_libraries(name, tmp_path):
    with pytest.raises(DiskFullError) as found:
        raised(RAISED[name], {tmp_path: "set X to another disk"})
    assert found.value.__cause__ is RAISED[name]
    said = str(found.value)
    assert "is full" in said and "are free there" in said and "writes up to 3.0 GB" in said


def test_full_disk_is_recognised_in_a_cause(tmp_path):
    error = ValueError("could not save")
    error.__cause__ = RAISED["ENOSPC"]
    with pytest.raises(DiskFullError):
        raised(error, {tmp_path: "x"})


@pytest.mark.parametrize("source", [None, "/elsewhere/tokenizer.json"], ids=["written", "copied"])
def test_error_names_the_folder_of_the_file_that_could_not_be_written(source, tmp_path):
    inner = tmp_path / "exports"
    names = [str(inner / "a" / "tokenizer.json")]
    if source:
        names = [source, None, *names]
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *names)
    with pytest.raises(DiskFullError) as found:
        raised(error, {tmp_path: "move the cache", inner: "use --out"})
    assert f"the disk of {inner} is full" in str(found.value)
    assert "Free some space, or use --out; the same command resumes" in str(found.value)


def test_error_without_a_file_names_the_folder_with_the_least_space(tmp_path, monkeypatch):
    free = {tmp_path / "cache": 5000, tmp_path / "out": 10**9}
    monkeypatch.setattr(diskfull, "free_bytes", lambda folder: free.get(folder, 10**10))
    with pytest.raises(DiskFullError, match="cache is full: 5 kB are free there"):
        raised(RAISED["safetensors"], dict.fromkeys(free, "x"))


def test_errors_of_torch_only_count_if_the_disk_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(diskfull, "free_bytes", lambda folder: 10**10)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        raised(TORCH, {tmp_path: "x"})
    monkeypatch.setattr(diskfull, "free_bytes", lambda folder: 10**6)
    with pytest.raises(DiskFullError):
        raised(TORCH, {tmp_path: "x"})


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "Permission denied"), ValueError("seed = -1"), MemoryError()])
def test_other_errors_are_not_changed(error, tmp_path):
    with pytest.raises(type(error)) as found:
        raised(error, {tmp_path: "x"})
    assert found.value is error


def test_nested_reports_give_one_error(tmp_path):
    with pytest.raises(DiskFullError) as found, full_disk_reported(lambda: {tmp_path: "outer"}, lambda: 9e9):
        raised(RAISED["ENOSPC"], {tmp_path: "inner"})
    assert "9.0 GB" not in str(found.value)
