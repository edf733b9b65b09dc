"""README.md, docs/ and notebooks: links lead somewhere, and the glossary is complete and in order."""

import re

import pytest
from pages import NOTEBOOKS, PAGES, ROOT, text_of

GLOSSARY = ROOT / "docs" / "glossary.md"
DEFINITION = re.compile(r"^\[([^\]]+)\]: (\S+)$", re.MULTILINE)


def markdown(path):
    """The text of a page, or of the markdown cells of a notebook, with empty lines instead of code blocks."""
    return re.sub(
        r"^```.*?^```$", lambda block: "\n" * block[0].count("\n"), text_of(path), flags=re.DOTALL | re.MULTILINE
    )


def without_code(path):
    """The markdown of a page or notebook without code spans."""
    return re.sub(r"`[^`\n]*`", "", markdown(path))


def anchors(path):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", markdown(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path):
    """The targets of all links and pictures of a page or notebook."""
    text = without_code(path)
    return re.findall(r"\]\(([^)\s]+)\)", text) + [url for _, url in DEFINITION.findall(text)]


def broken(path):
    """The relative links of a page that lead to no file, or to no heading of a page."""
    wrong = []
    for link in links(path):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (heading and target.suffix == ".md" and heading not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("path", [*PAGES.values(), *NOTEBOOKS], ids=lambda path: path.name)
def test_relative_links_lead_to_files_and_headings(path):
    assert broken(path) == []


def test_links_to_missing_files_and_headings_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One (1)\n\n[a](#one-1) [b](page.md#two) [c](none.md) [d](https://a.org) [e][x]\n\n[x]: y\n")
    assert broken(page) == ["page.md#two", "none.md", "y"]


@pytest.mark.parametrize("page", PAGES)
def test_reference_links_are_defined_and_definitions_are_used(page):
    text = without_code(PAGES[page])
    used = set(re.findall(r"\]\[([^\]]+)\]", text))
    assert used == {name for name, _ in DEFINITION.findall(text)}


def entries():
    """The headings of the glossary and the text below each."""
    parts = re.split(r"^### (.+)$", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_glossary_is_in_alphabetical_order():
    assert list(entries()) == sorted(entries(), key=str.casefold)


def test_glossary_entries_name_their_place_in_the_kit_and_a_source():
    for term, text in entries().items():
        kit, source = text.split("- **Source**: ")
        assert "- **In the kit**: " in kit, term
        assert "https://" in source, term


def test_glossary_names_existing_settings_and_functions():
    """Names in code spans that look like Python's occur in the package."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "longrecipe").rglob("*.py"))
    spans = re.findall(r"`([A-Za-z_.]+)`", "".join(text.split("- **Source**")[0] for text in entries().values()))
    names = {span.rpartition(".")[2] for span in spans}
    assert {name for name in names if name.strip("_") not in code} == set()


def test_arxiv_links_show_the_number_that_they_lead_to():
    for path in PAGES.values():
        for shown, target in re.findall(r"\[arXiv (\S+?)\]\(https://arxiv\.org/abs/(\S+?)\)", path.read_text("utf-8")):
            assert shown == target


def test_evidence_of_the_comparison_is_fixed_to_a_commit():
    """Links to code of other projects name a commit, so that their lines stay the same."""
    urls = [url for _, url in DEFINITION.findall((ROOT / "docs" / "comparison.md").read_text(encoding="utf-8"))]
    assert urls
    assert [url for url in urls if not re.search(r"/(blob|tree|commit)/[0-9a-f]{40}", url)] == []
