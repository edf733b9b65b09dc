"""Files around the kit: CITATION.cff, constraints.txt, the devcontainer, the long text and the badges."""

import ast
import io
import json
import re
import runpy
import shutil
import subprocess
import tarfile
import tomllib
import types
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from longrecipe import __version__
from longrecipe.system.paths import PACKAGE

ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(each) for each in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]
LINES = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
LONG_TEXT = runpy.run_path(str(ROOT / "docs" / "long_text.py"))
BADGES = runpy.run_path(str(ROOT / "docs" / "badges.py"))


def cff():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.mark.parametrize("needed", NEEDED, ids=lambda each: each.name)
def test_every_direct_dependency_is_pinned_within_its_range(needed):
    pins = {canonicalize_name(name): version for name, version in (line.split("==") for line in LINES)}
    assert needed.specifier.contains(pins[canonicalize_name(needed.name)])


def test_constraints_are_plain_versions_that_any_index_has():
    # A local version such as 2.13.0+cpu is only on some indexes; 2.13.0 accepts it.
    assert all(re.fullmatch(r"[\w.-]+==[\w.!]+", line) for line in LINES)


@pytest.mark.parametrize("line", LINES)
def test_pinned_versions_support_early_releases_of_python(line):
    """Debian 12 has Python 3.11.2."""
    name, version = line.split("==")
    try:
        about = metadata(name)
    except PackageNotFoundError:
        pytest.skip("not installed")
    if about["Version"] == version:
        assert SpecifierSet(about.get("Requires-Python") or "").contains("3.11.2")


def test_ci_and_devcontainer_install_with_the_constraints():
    container = (ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8")
    for text in (container, (ROOT / ".ci" / "run").read_text(encoding="utf-8")):
        assert "-c constraints.txt -e '.[test]'" in text
    settings = json.loads(re.sub(r"^\s*//.*$", "", container, flags=re.MULTILINE))
    assert "--torch-backend=cpu" in settings["postCreateCommand"] and settings["image"] == "python:3.11"


def test_citation_names_this_version_and_the_paper():
    about = cff()
    assert about["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= about.keys()
    assert (about["version"], about["license"]) == (__version__, PROJECT["license"])
    (paper,) = about["references"]
    assert paper["doi"] == "10.18653/v1/2025.acl-long.581" and len(paper["authors"]) == 11
    page = (ROOT / "docs" / "citation.md").read_text(encoding="utf-8")
    assert paper["doi"] in page and all(author["family-names"] in page for author in paper["authors"])
    assert f"version = {{{__version__}}}" in page and about["title"].partition(":")[0] in page


def test_no_badge_is_committed_before_the_address_is_known():
    texts = [ROOT / "README.md", *(ROOT / "notebooks").glob("*.ipynb")]
    for path in texts:
        text = path.read_text(encoding="utf-8")
        assert "OWNER/" not in text and ("mybinder.org" in text) == ("repository-code" in cff())


@pytest.fixture
def filled(tmp_path):
    for name in ("README.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    BADGES["fill"](tmp_path, "me/kit")
    return tmp_path


def sources(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]), ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_badges_lead_to_every_notebook_and_are_replaced_by_later_ones(filled):
    before = {path: path.read_text(encoding="utf-8") for path in filled.rglob("*") if path.is_file()}
    BADGES["fill"](filled, "you/other")
    for path, text in before.items():
        assert path.read_text(encoding="utf-8") == text.replace("me/kit", "you/other")
    readme = (filled / "README.md").read_text(encoding="utf-8")
    for name in BADGES["NOTEBOOKS"]:
        path = f"notebooks/{name}.ipynb"
        assert (
            f"/github/you/other/blob/main/{path})" in readme
            and f"/gh/you/other/main?urlpath=lab/tree/{path})" in readme
        )
        assert path in sources(filled / path)[0] and (ROOT / path).is_file()
    assert "repository-code: https://github.com/you/other\n" in (filled / "CITATION.cff").read_text(encoding="utf-8")


def test_install_code_is_in_the_settings_cell_and_runs_on_colab_only(filled, monkeypatch):
    ran = []
    system = types.SimpleNamespace(modules={}, executable="python")
    path = types.SimpleNamespace(exists=lambda name: False)
    fakes = {
        "sys": system,
        "os": types.SimpleNamespace(path=path, chdir=lambda folder: ran.append(["cd", folder])),
        "subprocess": types.SimpleNamespace(run=lambda words, check: ran.append(words)),
    }
    for name in BADGES["NOTEBOOKS"]:
        _, (parameters, settings, *_) = sources(filled / "notebooks" / f"{name}.ipynb")
        assert "subprocess" not in parameters and settings.count("google.colab") == 1
        code = ast.parse(settings)
        code.body = [statement for statement in code.body if isinstance(statement, ast.If)][:1]
        for modules, expected in (({}, 0), ({"google.colab": None}, 3)):
            system.modules, ran[:] = modules, []
            exec(compile(code, name, "exec"), dict(fakes))
            assert len(ran) == expected
    assert ran[0][-2:] == ["https://github.com/me/kit", "longrecipe"] and ran[1] == ["cd", "longrecipe"]
    assert ran[2] == ["python", "-m", "pip", "install", "-q", "."]


@pytest.mark.parametrize("address", ["longrecipe", "https://github.com/me/kit", "me/kit/tree", ""])
def test_address_without_owner_and_name_is_an_error(address, tmp_path):
    with pytest.raises(ValueError, match="write OWNER/NAME"):
        BADGES["fill"](tmp_path, address)


def test_long_text_is_the_documentation_of_source_archives(tmp_path, monkeypatch):
    names = ["a-1/docs/one.txt", "a-1/docs/deep/two.rst", "a-1/doc/three.rst", "a-1/docs/four.py", "a-1/README.rst"]
    names += ["a-1/tests/docs/five.txt"]

    def download(words, check):
        assert check and words[-len(LONG_TEXT["PACKAGES"]) :] == list(LONG_TEXT["PACKAGES"])
        with tarfile.open(Path(words[words.index("-d") + 1], "a-1.tar.gz"), "w:gz") as archive:
            for name in names:
                file = tarfile.TarInfo(name)
                file.size = len(name)
                archive.addfile(file, io.BytesIO(name.encode()))

    monkeypatch.setattr(subprocess, "run", download)
    LONG_TEXT["main"](tmp_path / "text")
    found = {path.relative_to(tmp_path / "text").as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == set(names[:3])
    with pytest.raises(FileExistsError, match="text exists: remove it, or name another folder"):
        LONG_TEXT["main"](tmp_path / "text")
