"""The command line: help, errors in one message, and the public names of the package."""

import argparse
import os
import subprocess
import sys
import tomllib

import pytest
import torch
from limits import TIMEOUT

from longrecipe.cli import COMMANDS, main
from longrecipe.cli.messages import messages
from longrecipe.cost import DoesNotFitError
from longrecipe.settings import ParamsError
from longrecipe.system.files import BusyError
from longrecipe.system.paths import PACKAGE
from longrecipe.train.guard import SkippedPositionsError

PARSER = argparse.ArgumentParser(prog="longrecipe train")


def exit_of(capsys, *words):
    """The exit status of a command, and what it printed to stdout and stderr."""
    with pytest.raises(SystemExit) as stop:
        main(words)
    return stop.value.code, *capsys.readouterr()


@pytest.mark.parametrize(
    "error",
    [ParamsError, OSError, ImportError, BusyError, DoesNotFitError, SkippedPositionsError, torch.OutOfMemoryError],
)
def test_fixable_errors_are_one_message(error, capsys):
    with pytest.raises(SystemExit) as stop, messages(PARSER, "run it again"):
        raise error("ratio = 2: must be 1 or less")
    assert stop.value.code == 1
    assert capsys.readouterr().err == "longrecipe train: ratio = 2: must be 1 or less\n"


def test_error_without_message_shows_its_type(capsys):
    with pytest.raises(SystemExit), messages(PARSER, "run it again"):
        raise MemoryError
    assert capsys.readouterr().err == "longrecipe train: MemoryError\n"


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(error, match="expected scalar type"), messages(PARSER, "run it again"):
        raise error("expected scalar type")


def test_ctrl_c_says_how_to_resume(capsys):
    with pytest.raises(SystemExit) as stop, messages(PARSER, "the same command resumes"):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "longrecipe train: interrupted; the same command resumes\n"


def test_without_a_command_the_help_is_printed(capsys):
    main([])
    shown = capsys.readouterr().out
    assert all(f"\n    {name} " in shown for name in COMMANDS) and "longrecipe check --params own.yaml" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_and_every_option(name, capsys):
    code, shown, _ = exit_of(capsys, name, "--help")
    assert code == 0 and COMMANDS[name].HELP in " ".join(shown.split()) and f"examples:\n  longrecipe {name}" in shown
    parser = argparse.ArgumentParser()
    COMMANDS[name].add_arguments(parser)
    assert all(action.help for action in parser._actions)


def test_check_reference_prints_the_committed_reference(capsys):
    code, shown, _ = exit_of(capsys, "check", "--reference")
    assert code == 0 and shown == (PACKAGE.parent / "params" / "reference.yaml").read_text(encoding="utf-8")


def test_unknown_command_lists_commands(capsys):
    code, _, said = exit_of(capsys, "trian")
    assert code == 2 and all(name in said for name in COMMANDS)


def test_help_and_package_do_not_import_torch():
    code = "import sys, longrecipe.cli; longrecipe.cli.main([]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=TIMEOUT)


def test_public_names_are_the_ones_of_the_packages():
    import longrecipe
    from longrecipe import positions, recipe, settings

    assert (longrecipe.load, longrecipe.Params, longrecipe.ParamsError) == (settings.load, settings.Params, ParamsError)
    assert (longrecipe.prepare, longrecipe.Recipe) == (recipe.prepare, recipe.Recipe)
    assert longrecipe.METHODS is positions.METHODS
    assert {"load", "prepare", "METHODS"} <= {*dir(longrecipe)}
    with pytest.raises(AttributeError, match="has no attribute 'lode'"):
        longrecipe.lode  # noqa: B018


def test_console_script_is_the_command_line():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"longrecipe": f"{main.__module__}:{main.__name__}"}


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--params", "none.yaml"],
        ["check", "--params", "none.yaml"],
        ["push", "none", "me/model"],
        ["sweep", "table2", "-p", "ratio", "2"],
        ["results"],
        ["cost", "mini"],
    ],
    ids=lambda words: words[0],
)
def test_every_command_fails_with_one_message(words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path / "nowhere"))
    code, _, said = exit_of(capsys, *words)
    assert code == 1 and said.count("\n") == 1 and said.startswith(f"longrecipe {words[0]}: ")


def test_training_without_a_method_is_refused(capsys):
    path = str(PACKAGE.parent / "params" / "mini" / "llama3.yaml")
    code, _, said = exit_of(capsys, "train", "--params", path, "-p", "method", "none")
    assert code == 1 and "method = none: it trains nothing" in said


@pytest.mark.slow
def test_python_m_longrecipe_is_the_command_line(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "LONGRECIPE_ROOT": str(tmp_path / "nowhere")}
    command = [sys.executable, "-m", "longrecipe", "sweep", "table2"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=TIMEOUT)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stderr.splitlines()[-1].startswith("longrecipe sweep: LONGRECIPE_ROOT=")
