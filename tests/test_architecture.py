"""docs/architecture.md shows the packages and imports of the code as it is."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "docs" / "architecture.py"


@pytest.fixture(scope="module")
def architecture():
    return runpy.run_path(str(SCRIPT))


def test_page_is_up_to_date(architecture):
    committed = architecture["PAGE"].read_text(encoding="utf-8")
    assert committed == architecture["page"](), "run `python docs/architecture.py`"


def test_imports_that_a_chain_implies_are_left_out(architecture):
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert architecture["reduced"](graph) == [("a", "b"), ("a", "d"), ("b", "c")]


def test_every_package_is_in_a_layer(architecture):
    listed = [name for names in architecture["layers"]() for name in names]
    assert sorted(listed) == sorted(architecture["imports"]())
