"""A disk that becomes full: one message names the folder and the space; with more space the same command finishes."""

import random
import re
import subprocess
from contextlib import contextmanager

import pytest

from campaign.faults import BALLOON, Fault
from campaign.judge import Verdict, is_fixable, judge, told

pytestmark = [pytest.mark.campaign, pytest.mark.slow]
# Each disk of a run by name, as a path of the place.
DISKS = {
    "cache": lambda place: place.cache,
    "export": lambda place: place.out.parent,
}


@contextmanager
def small_disk(folder, n_bytes):
    """A disk of so many bytes at a folder; yields a function that gives it another size."""
    size = f"size={n_bytes // 1024}k"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "campaign", folder], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be made here (mount -t tmpfs: {done.stderr.strip()}); start it as root")
    try:
        yield lambda n: subprocess.run(["mount", "-o", f"remount,size={n // 1024}k", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def is_told(exit, folder):
    """Whether the message says that the disk is full, and names the folder, what is free and what is needed."""
    words = ("full", str(folder), "free", "the same command")
    return is_fixable(exit) and all(word in exit.message for word in words) and re.search(r"\d [kMG]B", exit.message)


def verdict_of(run_in, place, folder, exit, more_space, wanted):
    """The verdict on a run that met a full disk, which then gets more space."""
    if exit.how == "finished":
        return judge(exit, wanted)
    if not is_told(exit, folder):
        return Verdict("lost", f"no message about the full disk: {told(exit)}")
    more_space()
    again = judge(run_in(place), wanted)
    return Verdict("refused with advice", exit.message) if again.outcome == "survived" else again


def test_a_disk_that_others_fill(undisturbed, new_place, run_in, scale, report):
    """Another program takes what is free, before one of the run's file operations."""
    _, wanted = undisturbed()
    rng, lost = random.Random(5), []
    for trial in range(scale.of("FULL_DISKS", 1, 40)):
        place = new_place()
        folder = DISKS["export" if trial % 4 == 3 else "cache"](place)
        inside = [i for i, each in enumerate(wanted.operations, 1) if f"/{folder.name}/" in each]
        at = rng.choice(inside)
        with small_disk(folder, 64 << 20):
            exit = run_in(place, fault=Fault("fill", at=at, disk=str(folder)))
            fix = (folder / BALLOON).unlink
            verdict = verdict_of(run_in, place, folder, exit, fix, wanted.digest)
        lost.append(report("full disk: others fill it", verdict, f"{folder.name}, before {wanted.operations[at - 1]}"))
    assert not any(lost), "\n".join(filter(None, lost))


@pytest.mark.full_campaign
@pytest.mark.parametrize("disk", DISKS)
def test_a_disk_that_is_too_small(disk, undisturbed, new_place, run_in, scale, report):
    """Of growing size, so that the run gets further and further."""
    like, wanted = undisturbed()
    used = sum(path.stat().st_size for path in DISKS[disk](like).rglob("*") if path.is_file())
    lost = []
    for step in range(1, scale.of("SIZES", 1, 8) + 1):
        place = new_place()
        folder, size = DISKS[disk](place), max(1 << 12, step * used // 6)
        with small_disk(folder, size) as resize:
            exit = run_in(place, checks_disk=False)
            verdict = verdict_of(run_in, place, folder, exit, lambda: resize(64 << 20), wanted.digest)
        lost.append(report("full disk: too small", verdict, f"{disk} of {size:,} bytes"))
    assert not any(lost), "\n".join(filter(None, lost))


def test_a_disk_that_is_too_small_is_refused_before_any_work(new_place, run_in, report):
    place = new_place()
    with small_disk(place.cache, 1 << 20):
        exit = run_in(place)
        is_right = is_fixable(exit) and all(
            word in exit.message for word in (str(place.cache), "free", "LONGRECIPE_CACHE")
        )
        left = [path for path in place.cache.rglob("*") if path.is_file() and not path.name.startswith(".")]
    verdict = Verdict("refused with advice") if is_right and not left else Verdict("lost", f"{told(exit)} {left}")
    assert not report("full disk: refused at the start", verdict, "cache of 1 MB"), verdict.why
