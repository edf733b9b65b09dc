"""Where files are: repository root, params, shipped models, results, cache. Nothing here creates a folder."""

import os
import re
import tomllib
from pathlib import Path

import platformdirs

from longrecipe.system.errors import reason

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(@\w[\w./-]*)?")
_POINTER = b"version https://git-lfs.github.com/spec/v1"
PACKAGE = Path(__file__).resolve().parents[1]


def root() -> Path:
    """The repository root, or the working directory if there is none (see `repository`)."""
    return repository() or Path.cwd().resolve()


def repository() -> Path | None:
    """The root of a copy of this repository: `$LONGRECIPE_ROOT`, else the nearest folder above the working directory,
    else the folder this package was installed from; None for an installed wheel elsewhere.

    papermill runs a notebook in the caller's folder and nbval in the notebook's own, so a relative path is never right.
    Raises NotADirectoryError if `$LONGRECIPE_ROOT` does not name a folder.
    """
    if env := os.environ.get("LONGRECIPE_ROOT"):
        if not user_path(env).is_dir():
            raise NotADirectoryError(f"LONGRECIPE_ROOT={env!r} is no folder; unset it or name the repository root.")
        return user_path(env).resolve()
    here = Path.cwd().resolve()
    return next((folder for folder in (here, *here.parents, PACKAGE.parent) if _is_ours(folder)), None)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a copy of this repository: other projects have `params/` and `notebooks/`, too."""
    if not ((folder / "params").is_dir() and (folder / "notebooks").is_dir()):
        return False
    try:
        with (folder / "pyproject.toml").open("rb") as file:
            return tomllib.load(file)["project"]["name"] == "longrecipe"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_pointer(path: Path) -> None:
    """Raise ValueError if a file cannot be opened, or is a pointer of Git LFS, as in a clone without Git LFS."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({reason(error)}): change its permissions, or remove it.") from error
    if is_pointer:
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in {path.parent}.")


def params_dir() -> Path:
    """The folder of params files: the repository's `params/`, else the copy inside an installed wheel."""
    for folder in (root() / "params", PACKAGE / "_params"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"no params folder in {root()}; run inside a clone or set LONGRECIPE_ROOT.")


def mini_model_dir(model: str) -> Path:
    """The folder of a mini model that ships with the package."""
    return PACKAGE / "assets" / "mini" / model


def results_dir() -> Path:
    """`results/` of the repository: committed tables and figures of finished runs."""
    return root() / "results"


def cache_dir() -> Path:
    """Where large files go that can be made again (datasets, checkpoints, weights): `$LONGRECIPE_CACHE`, else `cache/`
    of the repository, else the user's cache folder, such as ~/.cache/longrecipe on Linux.

    Raises ValueError for a path that `datasets` does not accept.
    """
    path = user_path(os.environ.get("LONGRECIPE_CACHE") or _default_cache()).resolve()
    if "::" in str(path) or str(path) != str(path).encode("utf-8", "replace").decode():
        raise ValueError(f"cache folder {str(path)!r}: must be UTF-8 and not contain `::`; set LONGRECIPE_CACHE.")
    return path


def _default_cache() -> Path:
    checkout = repository()
    return checkout / "cache" if checkout else platformdirs.user_cache_path("longrecipe", appauthor=False)


def user_path(name: str | Path) -> Path:
    """The absolute path of a name that a user gave: relative to the working directory, `~` is the home folder.

    Raises ValueError for the home folder of a user that does not exist.
    """
    path = os.path.expanduser(name)
    if path.startswith("~"):
        raise ValueError(f"{str(name)!r}: {Path(path).parts[0]} is no user of this machine; name another folder.")
    return Path(os.path.abspath(path))


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub's id, owner/name or owner/name@revision."""
    return bool(_HUB_ID.fullmatch(name))


def split_revision(name: str) -> tuple[str, str | None]:
    """The id and the revision (a commit, tag or branch) in owner/name@revision; None if no revision is given."""
    name, _, revision = name.partition("@")
    return name, revision or None
