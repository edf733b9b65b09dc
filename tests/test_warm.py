"""Processes of `warm_python` behave as those of python do."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from limits import TIMEOUT

pytestmark = pytest.mark.slow


def run(python, *words, **options):
    return subprocess.run([python, *words], capture_output=True, text=True, timeout=TIMEOUT, **options)


CODE = """
import os, sys
print(sys.argv, os.getcwd(), os.environ["OWN"], sys.stdin.read(), "longrecipe" in sys.modules, __name__)
sys.exit(3)
"""


def test_arguments_folder_environment_input_and_exit_status_are_passed_on(warm_python, tmp_path):
    (tmp_path / "own.py").write_text(CODE)
    for words in (["-c", CODE, "a b", ""], ["own.py", "a b", ""], ["-m", "own", "a b", ""]):
        options = {"cwd": tmp_path, "env": os.environ | {"OWN": "x=1\ny"}, "input": "said"}
        warm, cold = (run(python, *words, **options) for python in (warm_python, sys.executable))
        assert (warm.returncode, warm.stderr) == (cold.returncode, cold.stderr) == (3, "")
        # With -m, python replaces the first argument by the path of the module.
        assert warm.stdout == cold.stdout and f"{tmp_path} x=1\ny said False __main__" in warm.stdout


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("raise ValueError('no such thing')", 1, "ValueError: no such thing\n"),
        ("import sys; sys.exit('what is wrong')", 1, "what is wrong\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
        ("import os; os._exit(0)", 0, ""),
    ],
)
def test_failures_are_passed_on(warm_python, code, status, error):
    done = run(warm_python, "-c", code)
    assert done.returncode == status and done.stderr.endswith(error)


def test_process_ends_with_its_client(warm_python):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(7200)"
    client = subprocess.Popen([warm_python, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(client.stdout.readline())
    client.kill()
    client.wait()
    deadline = time.monotonic() + TIMEOUT
    while psutil.pid_exists(worker):
        assert time.monotonic() < deadline
        time.sleep(0.02)
