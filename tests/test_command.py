"""Command lines: one message for what the user can fix."""

import argparse
import os
import subprocess
import sys

import pytest
import torch
from limits import TIMEOUT

from longrecipe import command
from longrecipe.cost import DoesNotFitError
from longrecipe.settings import ParamsError
from longrecipe.system.files import BusyError
from longrecipe.system.paths import PACKAGE
from longrecipe.train.guard import SkippedPositionsError

PARSER = argparse.ArgumentParser(prog="python -m longrecipe.train")


@pytest.mark.parametrize(
    "error",
    [ParamsError, OSError, ImportError, BusyError, DoesNotFitError, SkippedPositionsError, torch.OutOfMemoryError],
)
def test_errors_that_the_user_can_fix_are_one_message(error, capsys):
    with pytest.raises(SystemExit) as left, command.messages(PARSER):
        raise error("ratio = 2: must be 1 or less")
    assert left.value.code == 1
    assert capsys.readouterr().err == "python -m longrecipe.train: ratio = 2: must be 1 or less\n"


def test_an_error_without_words_is_named(capsys):
    with pytest.raises(SystemExit), command.messages(PARSER):
        raise MemoryError
    assert capsys.readouterr().err == "python -m longrecipe.train: MemoryError\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(error, match="expected scalar type"), command.messages(PARSER):
        raise error("expected scalar type")


def test_ctrl_c_says_how_to_resume(capsys):
    with pytest.raises(SystemExit) as left, command.messages(PARSER, "the same command resumes"):
        raise KeyboardInterrupt
    assert left.value.code == 130
    assert capsys.readouterr().err == "python -m longrecipe.train: interrupted; the same command resumes\n"


@pytest.mark.parametrize("name", ["train", "sweep", "results", "resources"])
def test_every_command_line_fails_with_one_message(name, tmp_path):
    words = {
        "train": ["--params", str(tmp_path / "none.yaml")],
        "sweep": ["ablation", "-p", "ratio", "2"],
        "resources": ["mini"],
    }.get(name, [])
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    environment["LONGRECIPE_ROOT"] = str(tmp_path / "nowhere")
    command_line = [sys.executable, "-m", f"longrecipe.{name}", *words]
    done = subprocess.run(command_line, capture_output=True, text=True, env=environment, timeout=TIMEOUT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"python -m longrecipe.{name}: ")
