"""Atomic files and locks."""

import logging
import subprocess
import sys

import pytest

from longrecipe.system import files

HOLD = """
import sys, time
from pathlib import Path
from longrecipe.system.files import locked
with locked(Path(sys.argv[1]), "makes it"):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def holder(path, seconds):
    """A process that holds the lock of a path for seconds."""
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_write_text_is_atomic(tmp_path, monkeypatch):
    path = tmp_path / "new" / "metrics.json"
    files.write_text(path, "first")

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            files.write_text(path, "second")
    assert path.read_text() == "first"
    files.write_text(path, "third")
    assert path.read_text() == "third"
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_new_folder_is_atomic(tmp_path):
    path = tmp_path / "made"
    with pytest.raises(OSError, match="full"), files.new_folder(path) as folder:
        (folder / "a").write_text("half")
        raise OSError("full")
    assert not list(tmp_path.iterdir())
    for text in ("first", "second"):
        with files.new_folder(path) as folder:
            (folder / "a").write_text(text)
            assert not path.exists() or (path / "a").read_text() == "first"
        assert (path / "a").read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_temporary_names_are_unique_and_leftovers_are_removed(tmp_path):
    path = tmp_path / "made"
    names = {files.temporary_of(path) for _ in range(5)}
    assert len(names) == 5 and {each.parent for each in names} == {tmp_path}
    for i, each in enumerate(sorted(names)):
        each.mkdir() if i % 2 else each.write_text("half")
    (tmp_path / ".made2.1-aa.tmp").mkdir()
    files.remove_leftovers(path)
    assert [p.name for p in tmp_path.iterdir()] == [".made2.1-aa.tmp"]


@pytest.mark.parametrize("content", ["", '{"a": 1, "b', "\0\0"])
def test_damaged_json_error_names_the_file_and_the_fix(tmp_path, content):
    path = tmp_path / "stage.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"stage\.json is not readable JSON .*; delete the folder\.$"):
        files.read_json(path, "delete the folder")


def test_lock_waits_for_another_process_and_logs_a_warning(tmp_path, caplog):
    path = tmp_path / "made"
    process = holder(path, 1)
    with caplog.at_level(logging.WARNING), files.locked(path, "makes it"):
        assert process.wait(60) == 0
    (record,) = caplog.records
    assert record.getMessage() == f"process {process.pid} makes it ({path}): waiting until it has finished"


def test_lock_without_waiting_is_an_error_until_the_other_process_is_killed(tmp_path):
    path = tmp_path / "made"
    process = holder(path, 600)
    with pytest.raises(files.BusyError, match=rf"process {process.pid} makes it .*made\): wait for it, or stop it"):  # noqa: SIM117
        with files.locked(path, "makes it", wait=False):
            pass
    process.kill()
    process.wait(60)
    with files.locked(path, "makes it", wait=False):
        pass
