import sys
from pathlib import Path

import platformdirs
import pytest

from longrecipe.system import paths

PROJECT = '[project]\nname = "{}"\n'
REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder that looks like the repository, with no environment variable that names another."""
    monkeypatch.delenv("LONGRECIPE_ROOT", raising=False)
    monkeypatch.delenv("LONGRECIPE_CACHE", raising=False)
    folder = tmp_path.resolve() / "clone"
    (folder / "params").mkdir(parents=True)
    (folder / "notebooks" / "deep").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PROJECT.format("longrecipe"))
    return folder


@pytest.mark.parametrize("inside", ["", "notebooks", "notebooks/deep", "params"])
def test_root_is_found_from_anywhere_inside(clone, monkeypatch, inside):
    monkeypatch.chdir(clone / inside)
    assert paths.root() == clone
    assert paths.params_dir() == clone / "params"
    assert paths.results_dir() == clone / "results"
    assert paths.cache_dir() == clone / "cache"


def test_the_nearest_root_wins(clone, monkeypatch):
    inner = clone / "notebooks" / "deep"
    (inner / "params").mkdir()
    (inner / "notebooks").mkdir()
    (inner / "pyproject.toml").write_text(PROJECT.format("longrecipe"))
    monkeypatch.chdir(inner / "params")
    assert paths.root() == inner


def test_outside_a_clone_the_package_knows_its_own(clone, tmp_path, monkeypatch):
    elsewhere = tmp_path.resolve() / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(paths, "PACKAGE", clone / "longrecipe")
    assert paths.root() == clone


@pytest.mark.parametrize(
    "pyproject",
    [
        None,
        PROJECT.format("other"),
        "[project]\n",
        "project = 3\n",
        "[tool.poetry]\nname = 'longrecipe'\n",
        "[project\n",
        b"\xff\xfe",
    ],
    ids=["none", "other name", "no name", "no table", "other table", "broken", "not UTF-8"],
)
def test_another_project_with_params_and_notebooks_is_not_the_root(pyproject, clone, monkeypatch):
    other = clone / "notebooks" / "deep"
    for name in ("params", "notebooks", "work"):
        (other / name).mkdir()
    if pyproject is not None:
        (other / "pyproject.toml").write_bytes(pyproject if isinstance(pyproject, bytes) else pyproject.encode())
    monkeypatch.chdir(other / "work")
    assert paths.root() == clone, "the repository above"
    (clone / "pyproject.toml").unlink()
    assert paths.root() == REPOSITORY, "the one of the package"
    assert (paths.params_dir() / "mini" / "llama3.yaml").is_file()
    monkeypatch.setattr(paths, "PACKAGE", clone / "elsewhere")
    assert paths.root() == other / "work", "none: the working directory"


def test_home_folder_in_environment_variables(clone, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(clone)
    monkeypatch.setenv("LONGRECIPE_CACHE", "~/x")
    assert paths.cache_dir() == tmp_path.resolve() / "x"
    monkeypatch.setenv("LONGRECIPE_ROOT", "~/clone")
    assert paths.root() == clone
    monkeypatch.setenv("LONGRECIPE_CACHE", "~nobody-here/x")
    with pytest.raises(ValueError, match="is no user of this machine"):
        paths.cache_dir()
    monkeypatch.setenv("LONGRECIPE_CACHE", "relative")
    assert paths.cache_dir() == clone / "relative"


def test_installed_wheel_uses_its_own_params_and_the_users_cache(clone, tmp_path, monkeypatch):
    here, package = tmp_path.resolve() / "here", tmp_path.resolve() / "site-packages" / "longrecipe"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(paths, "PACKAGE", package)
    with pytest.raises(FileNotFoundError, match="LONGRECIPE_ROOT"):
        paths.params_dir()
    (package / "_params").mkdir(parents=True)
    assert paths.params_dir() == package / "_params"
    assert paths.repository() is None and paths.root() == here
    assert paths.results_dir() == here / "results"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert paths.cache_dir() == Path(platformdirs.user_cache_path("longrecipe", appauthor=False)).resolve()
    if sys.platform == "linux":
        assert paths.cache_dir() == tmp_path.resolve() / "home" / "longrecipe"
    monkeypatch.setenv("LONGRECIPE_CACHE", "mine")
    assert paths.cache_dir() == here / "mine"


def test_environment_variables_come_first(clone, tmp_path, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("LONGRECIPE_ROOT", str(clone))
    assert paths.root() == clone
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "elsewhere"))
    assert paths.cache_dir() == tmp_path.resolve() / "elsewhere"
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path / "nowhere"))
    with pytest.raises(NotADirectoryError, match=r"LONGRECIPE_ROOT='.*nowhere'"):
        paths.root()


def test_asking_creates_nothing(clone, monkeypatch):
    monkeypatch.chdir(clone)
    before = sorted(clone.rglob("*"))
    for ask in (paths.root, paths.params_dir, paths.results_dir, paths.cache_dir):
        ask()
    assert sorted(clone.rglob("*")) == before


def test_mini_models_lie_in_the_package():
    assert (paths.mini_model_dir("llama3") / "config.json").is_file()
    assert REPOSITORY / "longrecipe" in paths.mini_model_dir("llama3").parents


def test_names_of_users_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    for name, expected in {
        "a/b": tmp_path / "a" / "b",
        "./a/../b/": tmp_path / "b",
        "/a/b": Path("/a/b"),
        "~/texts": Path("/home/me/texts"),
        "a~": tmp_path / "a~",
    }.items():
        assert paths.user_path(name) == paths.user_path(Path(name)) == expected


def test_a_cache_folder_that_would_be_taken_for_a_chain_of_urls_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "a::b"))
    with pytest.raises(ValueError, match=r"cache folder .*a::b': must be UTF-8 and not contain `::`; set LONGR"):
        paths.cache_dir()
