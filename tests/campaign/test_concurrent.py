"""Runs at the same time that make the same files: the later ones wait, and all of them end well."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from campaign.judge import Verdict, judge, told

pytestmark = [pytest.mark.campaign, pytest.mark.slow]


def test_runs_at_the_same_time_end_as_one(undisturbed, new_place, run_in, scale, report):
    _, wanted = undisturbed("recipe")
    place, count = new_place(), scale.of("RUNS", 2, 4)
    with ThreadPoolExecutor(count) as pool:
        exits = list(pool.map(lambda _: run_in(place, "recipe"), range(count)))
    lost = [
        report("runs at the same time", Verdict("survived" if exit.how == "finished" else "lost", told(exit)), f"{i}")
        for i, exit in enumerate(exits)
    ]
    # What they have left together is what one leaves.
    lost.append(report("runs at the same time", judge(run_in(place, "recipe"), wanted.digest), "what they left"))
    assert not any(lost), "\n".join(filter(None, lost))
