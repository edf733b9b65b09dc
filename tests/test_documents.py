"""README, docs and notebooks as pages: their form, words, and numbers that agree with what was run."""

import json
import re

import nbformat
import pandas as pd
import pytest
from pages import NOTEBOOKS, PAGES, ROOT, text_of

from longrecipe.system.paths import PACKAGE

WIDTH = 120
# Words of an older style, and numbers and verdicts that no output has.
OLD = re.compile(
    r"\banew\b|\bgoes on\b|\bstands? beside\b|\bhangs? on\b|\bknob\b|\bwaver|\bmend\b|[Ww]hat it took|DOES NOT HOLD"
    r"|(?<![\d.])-0\.0+(?!\d)|\b[Tt]he front\b|\bso many\b|\bpassed over\b|where it was\b"
)
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*(?:\.\d+)?(?![\w,]*\d)")


def cells_of(path, kind):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def outputs_of(path) -> str:
    """All text that a notebook's saved outputs show."""
    shown = []
    for cell in cells_of(path, "code"):
        for output in cell.outputs:
            shown += [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
            shown.append(re.sub(r"<[^>]+>", " ", output.get("data", {}).get("text/html", "")))
    return "\n".join(shown)


def numbers_of(text: str) -> set[str]:
    """Numbers of a text as they are written, without those in links, code, names, sections and arXiv ids."""
    text = re.sub(
        r"\[[^\]]*\]\([^)]*\)|`[^`]*`|arXiv:? ?\d+\.\d+|\b(?:section|Table|Figure|equation|Algorithm) [\d.]+", " ", text
    )
    return {found.rstrip(",").replace(",", "") for found in NUMBER.findall(text)}


def known_numbers(text: str) -> set[str]:
    """Numbers of outputs as they are written, and the same rounded, in percent, and in thousands and millions."""
    known = set()
    for found in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text):
        value = float(found.replace(",", "").rstrip(",") or 0)
        for each in (value, 100 * value, 100 - value, value / 1e3, value / 1e6):
            known |= {f"{each:.{digits}f}" for digits in range(4)} | {f"{each:g}"}
    return known


def prose(text: str) -> list[str]:
    """Lines of Markdown that can be wrapped: outside code, tables, images and definitions of links."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if not re.match(r"\s*(\||!\[|\[[^\]]+\]: |\[!\[)", line)]


def pages():
    """Every page and Markdown cell: an id, the file it is in, and its text."""
    for path in (*PAGES.values(), *NOTEBOOKS):
        yield pytest.param(path, text_of(path), id=path.name)


@pytest.mark.parametrize(("path", "text"), pages())
class TestPage:
    def test_lines_of_prose_are_short(self, path, text):
        assert not [line for line in prose(text) if len(line) > WIDTH]

    def test_words_are_plain(self, path, text):
        assert not OLD.findall(text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_finding_comes_second(self, path):
        first, second = nbformat.read(path, as_version=4).cells[:2]
        assert first.source.startswith("# ") and "**Claim" in first.source and "docs/glossary.md" in first.source
        assert "finding" in second.metadata.get("tags", [])
        starts = [line for line in second.source.splitlines() if line.startswith("> **")]
        assert [re.match(r"> \*\*([\w ]+)\*\*", line)[1] for line in starts] == ["Found", "Does not hold", "Next"]

    def test_numbers_of_the_finding_are_in_the_outputs(self, path):
        _, second = nbformat.read(path, as_version=4).cells[:2]
        assert numbers_of(second.source) <= known_numbers(outputs_of(path) + _parameters(path))

    def test_outputs_have_no_old_words(self, path):
        assert not OLD.findall(outputs_of(path))

    def test_printed_runs_exist(self, path):
        names = set(re.findall(r"\b[\w.]+-\w+-\d+-seed\d+-[0-9a-f]{10}\b", outputs_of(path)))
        assert names <= set(pd.read_csv(ROOT / "results" / "runs.csv")["run"])

    def test_stated_run_time_is_the_recorded_one(self, path):
        """Within a factor of 1.5 of the seconds that tests/strip_progress.py recorded."""
        notebook = nbformat.read(path, as_version=4)
        low, high = _stated_seconds(notebook.cells[0].source)
        assert low / 1.5 <= notebook.metadata["longrecipe"]["seconds"] <= high * 1.5


def test_stated_minutes_of_making_a_mini_model_are_the_recorded_ones():
    first = cells_of(ROOT / "notebooks" / "00_mini_models.ipynb", "markdown")[0].source
    stated = int(re.search(r"retrain True`[^.]*?(\d+) minutes", first, re.DOTALL)[1])
    recorded = json.loads((PACKAGE / "assets" / "mini" / "llama3" / "training.json").read_text())["seconds"]
    assert stated / 1.5 <= recorded / 60 <= stated * 1.5


def _parameters(path) -> str:
    """Sources of code cells, which set lengths, seeds and thresholds."""
    return "\n".join(cell.source for cell in cells_of(path, "code"))


def _stated_seconds(text: str) -> tuple[float, float]:
    found = re.search(r"Run time: (?:about )?(\d+)(?: to (\d+))? (second|minute)", text)
    assert found, "the first cell says `Run time: about N minutes` or `N seconds`"
    unit = {"second": 1, "minute": 60}[found[3]]
    return int(found[1]) * unit, int(found[2] or found[1]) * unit


def claims_of_readme() -> list[tuple[str, str]]:
    """Rows of README's table of claims: the notebook that each links to, and the row."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return [
        (link, row)
        for row in readme.splitlines()
        if row.startswith("|")
        for link in re.findall(r"\]\(notebooks/(\w+\.ipynb)\)", row)[:1]
    ]


def test_numbers_of_readme_are_in_results_or_in_the_outputs_of_the_notebooks():
    rows = claims_of_readme()
    assert {name for name, _ in rows} >= {path.name for path in NOTEBOOKS}
    results = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    for name, row in rows:
        shown = outputs_of(ROOT / "notebooks" / name) + _parameters(ROOT / "notebooks" / name)
        assert not numbers_of(row) - known_numbers(shown + results), row


def test_readme_states_the_run_time_of_its_main_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"#[^\n]* in (\d+) to (\d+) minutes[^\n]*\n[^\n]*papermill notebooks/03_train", readme)
    seconds = nbformat.read(ROOT / "notebooks" / "03_train.ipynb", as_version=4).metadata["longrecipe"]["seconds"]
    assert int(found[1]) * 60 / 1.5 <= seconds <= int(found[2]) * 60 * 1.5


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("77.9 [76.6, 79.2], see `T = 4096`", {"77.9", "76.6", "79.2"}),
        ("16,384 tokens (Table 1, arXiv 2409.00509)", {"16384"}),
    ],
)
def test_numbers_are_found_in_text(text, numbers):
    assert numbers_of(text) == numbers
