"""Every file of a finished and of an interrupted run, cut to half, emptied or deleted: the same command runs again.

It ends equal, or refuses and says what to delete, which helps. Nothing else is allowed.
"""

import random

import pytest

from campaign import judge
from campaign.disturbed import make_place
from campaign.faults import Fault
from campaign.judge import Verdict

pytestmark = [pytest.mark.campaign, pytest.mark.slow]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def delete(path):
    path.unlink()


def files_of(place):
    """Every file that a run has left and that is not empty, by its name within the place."""
    found = (path for top in place.written for path in sorted(top.rglob("*")) if path.is_file())
    return [path.relative_to(place.folder) for path in found if path.stat().st_size]


def tried(run_in, place, work, name, damage, wanted):
    """The verdict on one damaged file; a refusal counts if what it says to delete helps."""
    damaged = place.folder / name
    damage(damaged)
    exit = run_in(place, work)
    verdict = judge.judge(exit, wanted, name)
    if exit.how == "finished" or not (advised := judge.advised_path(exit, place, damaged)):
        return verdict
    judge.follow(advised)
    again = judge.judge(run_in(place, work), wanted)
    if again.outcome == "survived":
        return Verdict("refused with advice", exit.message)
    return Verdict("lost", f"the advice does not help ({exit.message}): {again.why}")


def campaign(part, like, work, wanted, names, damage, new_place, run_in, report):
    """Damage one file after the other, each in a copy of a place; returns what was lost."""
    lost = []
    for name in names:
        verdict = tried(run_in, new_place(like), work, name, damage, wanted)
        lost.append(report(part, verdict, f"{damage.__name__} {name}"))
    return [each for each in lost if each]


def chosen(names, most, seed=0):
    """At most so many names, and in a short run others than the same kind of file again and again."""
    rng = random.Random(seed)
    names = rng.sample(names, len(names))
    firsts = list({name.name: name for name in names}.values())
    return (firsts + [name for name in names if name not in firsts])[:most]


@pytest.mark.parametrize("damage", [cut, empty, delete], ids=lambda each: each.__name__)
def test_damaged_files_of_a_finished_run(damage, undisturbed, new_place, run_in, scale, report):
    like, wanted = undisturbed("recipe")
    short = {"cut": 2, "empty": 0}.get(damage.__name__, 1)
    names = chosen(files_of(like), scale.of("FILES", short, 1000))
    lost = campaign(
        f"{damage.__name__}: finished run", like, "recipe", wanted.digest, names, damage, new_place, run_in, report
    )
    assert not lost, "\n".join(lost)


@pytest.fixture(scope="module")
def interrupted(undisturbed, run_in, campaign_folder, material):
    """A place with a run killed in stage 1, after two checkpoints, and what is in the newest one."""
    _, wanted = undisturbed("recipe")
    place = make_place(campaign_folder / "interrupted", material)
    # The third checkpoint's folder is about to be made.
    at = next(
        i
        for i, each in enumerate(wanted.operations, 1)
        if "os.mkdir" in each and "extend/checkpoints/checkpoint-6" in each
    )
    assert run_in(place, "recipe", Fault("kill", at=at)).how == "killed"
    (checkpoint,) = place.cache.glob("*/extend/checkpoints/checkpoint-4")
    assert checkpoint.with_name("checkpoint-2").is_dir()
    return place, [name for name in files_of(place) if name.parent.name == "checkpoint-4"]


@pytest.mark.parametrize("damage", [cut, empty, delete], ids=lambda each: each.__name__)
def test_damaged_files_of_the_newest_checkpoint(damage, interrupted, undisturbed, new_place, run_in, scale, report):
    (like, names), (_, wanted) = interrupted, undisturbed("recipe")
    names = chosen(names, scale.of("FILES", int(damage is cut), 1000))
    lost = campaign(
        f"{damage.__name__}: checkpoint", like, "recipe", wanted.digest, names, damage, new_place, run_in, report
    )
    assert not lost, "\n".join(lost)


@pytest.mark.full_campaign
@pytest.mark.parametrize("damage", [cut, empty, delete], ids=lambda each: each.__name__)
def test_damaged_files_of_a_sweep(damage, undisturbed, new_place, run_in, scale, report):
    """The results of one run are damaged: the sweep and its tables work, or say which file."""
    like, wanted = undisturbed("sweep")
    names = [name for name in files_of(like) if name.parts[:2] == ("cache", "runs")]
    lost = campaign(f"{damage.__name__}: sweep", like, "sweep", wanted.digest, names, damage, new_place, run_in, report)
    assert not lost, "\n".join(lost)
