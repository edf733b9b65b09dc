"""Runs killed by SIGKILL at random file operations and moments end bit for bit as if they had not been."""

import random

import pytest

from campaign.faults import Fault
from campaign.judge import judge

pytestmark = [pytest.mark.campaign, pytest.mark.slow]
SEED = 20240


def drawn_kills(rng, count, operations, seconds):
    """Faults of a trial, one for each start: at an operation, shortly after one, or at any moment of the run."""
    kills = []
    for _ in range(count):
        kind = rng.choice(["at", "at", "shortly after", "moment"])
        if kind == "moment":
            kills.append(Fault("kill", after=rng.uniform(0.1, seconds)))
        else:
            after = rng.uniform(0.0005, 0.02) if kind == "shortly after" else 0.0
            kills.append(Fault("kill", at=rng.randint(1, operations), after=after))
    return kills


def killed_and_resumed(run_in, place, work, kills):
    """How the run ends that resumes after several kills; and how many of the kills came before its end."""
    n_killed = 0
    for kill in kills:
        exit = run_in(place, work, kill)
        if exit.how != "killed":
            return exit, n_killed
        n_killed += 1
    return run_in(place, work), n_killed


@pytest.mark.parametrize(
    ("work", "short", "full"), [("recipe", 2, 40), pytest.param("sweep", 1, 12, marks=pytest.mark.full_campaign)]
)
def test_killed_runs_resume_bit_for_bit(work, short, full, undisturbed, new_place, run_in, scale, report):
    _, wanted = undisturbed(work)
    count = scale.of("KILLS" if work == "recipe" else "SWEEP_KILLS", short, full)
    rng, lost, drawn = random.Random(SEED), [], 0
    while len(lost) < count:
        starts = rng.randint(1, 3) if drawn % 3 == 2 else 1
        # The first run of all takes longer than the others.
        kills, drawn = drawn_kills(rng, starts, len(wanted.operations), 0.7 * wanted.seconds), drawn + 1
        exit, n_killed = killed_and_resumed(run_in, new_place(), work, kills)
        if not n_killed:
            # Drawn after its end.
            assert drawn < 10 * count
            continue
        verdict = judge(exit, wanted.digest)
        at = [wanted.operations[kill.at - 1] if kill.at else f"{kill.after:.2f} s" for kill in kills]
        lost.append(report(f"SIGKILL: {work}", verdict, f"{n_killed} kills of {kills} {at}"))
    assert not any(lost), "\n".join(filter(None, lost))


@pytest.mark.full_campaign
def test_a_run_killed_at_every_start_still_ends(undisturbed, new_place, run_in, report):
    """Each start gets a little further than the one before."""
    _, wanted = undisturbed("recipe")
    place, at, step = new_place(), 1, max(1, len(wanted.operations) // 4)
    while (exit := run_in(place, "recipe", Fault("kill", at=at))).how == "killed":
        at += step
        assert at < 20 * len(wanted.operations)
    verdict = judge(exit, wanted.digest)
    assert not report("SIGKILL: recipe", verdict, "killed at every start"), verdict.why
