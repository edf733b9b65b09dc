"""Commands as people start them, with one of their processes killed: a rank of torchrun, papermill, its kernel."""

import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest

from campaign.children import Exit
from campaign.digests import digest
from campaign.disturbed import REPOSITORY, SETTINGS
from campaign.judge import Verdict, judge

pytestmark = [pytest.mark.campaign, pytest.mark.full_campaign]
# A safety net: about ten times the usual duration of a whole command, and of its end after a kill.
WHOLE, END = 900, 300
# Files that appear in the cache when a run is there.
MOMENTS = {
    "H' begins": "*/probe/stage.json",
    "stage 1 begins": "*/extend/stage.json",
    "checkpoint of stage 1": "*/extend/checkpoints/checkpoint-2",
    "second checkpoint of stage 1": "*/extend/checkpoints/checkpoint-4",
    "checkpoint of replay": "*/replay/checkpoints/checkpoint-2",
    "model of replay": "*/replay/model",
}


def torchrun(place):
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "longrecipe", "train"]
    return [sys.executable, "-m", *launcher, "--params", "own.yaml", "--out", str(place.out)]


def papermill(place):
    notebook, out = REPOSITORY / "notebooks" / "03_train.ipynb", place.folder / "out.ipynb"
    given = ["-p", "model", "own.yaml", "-p", "out", str(place.out)]
    return [sys.executable, "-m", "papermill", str(notebook), str(out), "--no-progress-bar", *given]


@contextmanager
def started(place, command):
    """A command that runs in a place; whatever is left of it is killed at the end."""
    environment = psutil.Process().environ() | place.environment | {"MPLBACKEND": "agg"}
    with (place.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=place.material, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            own = psutil.Process(process.pid) if process.poll() is None else None
            for each in [*own.children(recursive=True), own] if own else []:
                with_no_error(each.kill)
            process.wait()


def with_no_error(call):
    try:
        return call()
    except psutil.Error:
        return None


def exit_of(place, command):
    """How a command ends that is not disturbed."""
    with started(place, command) as process:
        try:
            status = process.wait(WHOLE)
        except subprocess.TimeoutExpired:
            return Exit("hung", message=f"still running after {WHOLE} s")
    log = (place.folder / "log.txt").read_text(errors="replace")
    return Exit("finished", digest=digest(place)) if status == 0 else Exit("error", "exit", f"{status}", log[-3000:])


def killed_at(place, command, moment, which):
    """Start a command, and kill one of its processes at a moment. Returns what was wrong with its end, or None.

    which: a function from the command's process to the one to kill.
    """
    with started(place, command) as process:
        limit = time.monotonic() + WHOLE
        while not any(place.cache.glob(MOMENTS[moment])):
            if process.poll() is not None or time.monotonic() > limit:
                return f"{moment}: not reached; exit status {process.poll()}"
            time.sleep(0.02)
        family = psutil.Process(process.pid).children(recursive=True)
        which(psutil.Process(process.pid)).kill()
        try:
            status = process.wait(END)
        except subprocess.TimeoutExpired:
            return f"still running {END} s after the kill"
        _, alive = psutil.wait_procs(family, timeout=END)
    if status == 0:
        return "exit status 0 after the kill"
    for each in alive:
        with_no_error(each.kill)
    return f"processes are left: {alive}" if alive else None


def rank(number):
    """The process of a rank, below a launcher."""

    def find(launcher):
        found = (each for each in launcher.children(recursive=True) if with_no_error(each.environ))
        return next(each for each in found if each.environ().get("RANK") == str(number))

    return find


def kernel(process):
    """The kernel of papermill."""
    return next(each for each in process.children(recursive=True) if "ipykernel_launcher" in " ".join(each.cmdline()))


def verdict_of(place, command, moment, which, wanted):
    if wrong := killed_at(place, command, moment, which):
        return Verdict("lost", wrong)
    return judge(exit_of(place, command), wanted)


def campaign(part, command, trials, new_place, report):
    """Kill at each of the trials, (moment, name, which to kill), and resume; returns what was lost."""
    place = new_place()
    whole = exit_of(place, command(place))
    assert whole.how == "finished", whole.trace
    lost = []
    for moment, name, which in trials:
        place = new_place()
        verdict = verdict_of(place, command(place), moment, which, whole.digest)
        lost.append(report(part, verdict, f"{name} at: {moment}"))
    return [each for each in lost if each]


def test_a_killed_rank_ends_the_run_which_resumes(new_place, scale, report):
    trials = [(moment, f"rank {i % 2}", rank(i % 2)) for i, moment in enumerate(MOMENTS)]
    lost = campaign("SIGKILL: rank of torchrun", torchrun, trials[: scale.of("RANKS", 1, 6)], new_place, report)
    assert not lost, "\n".join(lost)


def test_killed_papermill_runs_resume(new_place, scale, report):
    """The rerun starts at once, while the kernel of a killed papermill may still be there."""
    whole = ("papermill", lambda process: process)
    trials = [
        ("checkpoint of stage 1", "kernel", kernel),
        ("checkpoint of replay", *whole),
        ("H' begins", "kernel", kernel),
        ("stage 1 begins", *whole),
    ]
    lost = campaign("SIGKILL: papermill", papermill, trials[: scale.of("PAPERMILLS", 1, 4)], new_place, report)
    assert not lost, "\n".join(lost)


def test_the_moments_are_those_of_the_settings():
    assert SETTINGS["save_steps"] == 2 and SETTINGS["extend_steps"] > 4 and SETTINGS["replay_steps"] > 2
