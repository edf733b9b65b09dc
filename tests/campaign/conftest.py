"""Options, fixtures and the table of the campaign."""

import os
import shutil
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from campaign import children, table
from campaign.disturbed import make_material, make_place


def _is_full(config) -> bool:
    expression = config.getoption("markexpr") or ""
    return "campaign" in expression and "not campaign" not in expression


def pytest_collection_modifyitems(config, items):
    """Without -m campaign, leave out what has no place in a short run."""
    if _is_full(config):
        return
    left_out = [item for item in items if item.get_closest_marker("full_campaign")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter):
    if lines := table.lines():
        terminalreporter.section("fault campaign")
        for line in lines:
            terminalreporter.write_line(line)


@dataclass(frozen=True)
class Scale:
    """How much is tried: is_full with -m campaign; LONGRECIPE_CAMPAIGN_<NAME> overrides a number."""

    is_full: bool

    def of(self, name: str, short: int, full: int) -> int:
        """The number of trials of a kind: short or full, or the environment's."""
        return int(os.environ.get(f"LONGRECIPE_CAMPAIGN_{name.upper()}") or (full if self.is_full else short))


@pytest.fixture(scope="session")
def scale(request):
    return Scale(_is_full(request.config))


@pytest.fixture(scope="session")
def campaign_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="session")
def material(campaign_folder):
    return make_material(campaign_folder / "material")


@pytest.fixture(scope="session")
def run_in(material):
    """A function that does a run in a place, in a process of its own: `children.run`."""
    return partial(children.run, children.start_server())


@pytest.fixture
def new_place(campaign_folder, material):
    """A function that makes an empty place, or one with the files of another; it is deleted after the test."""
    made = []

    def make(like=None):
        folder = campaign_folder / f"trial-{len(list(campaign_folder.iterdir()))}"
        if like is None:
            place = make_place(folder, material)
        else:
            shutil.copytree(like.folder, folder, symlinks=True)
            place = type(like)(folder, material)
        made.append(folder)
        return place

    yield make
    for folder in made:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def undisturbed(campaign_folder, material, run_in):
    """A function from the name of a run to its place and exit, done once and not disturbed."""
    done = {}

    def make(work="recipe"):
        if work not in done:
            place = make_place(campaign_folder / f"undisturbed-{work}", material)
            exit = run_in(place, work)
            assert exit.how == "finished", exit.trace or exit
            done[work] = place, exit
        return done[work]

    return make


@pytest.fixture(scope="session")
def report(campaign_folder):
    """A function that counts a trial and keeps why it was lost; returns whether it was."""
    path = Path(os.environ.get("LONGRECIPE_CAMPAIGN_LOG") or campaign_folder / "campaign.log")

    def make(part, verdict, about):
        table.record(part, verdict.outcome)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{part}: {about}: {verdict.outcome}\n" + textwrap.indent(verdict.why.strip() + "\n", "    "))
        return f"{about}: {verdict.why}" if verdict.outcome == "lost" else None

    return make
