"""Settings of a notebook: what its parameters cell and papermill's -p set, and no other variable of the kernel."""

import ast
import types
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from longrecipe.settings.errors import ParamsError
from longrecipe.settings.files import is_file, load
from longrecipe.settings.schema import Params
from longrecipe.system.files import check_writable
from longrecipe.system.paths import cache_dir

# What IPython keeps in a notebook's namespace.
_IPYTHON_NAMES = {"In", "Out", "get_ipython", "exit", "quit", "open"}


def from_notebook(namespace: Mapping[str, Any]) -> Params:
    """The settings of a notebook: its params file, and what its namespace (`globals()`) changes (see `given_in`).

    Any setting can be changed. Raises ParamsError, and OSError if the cache cannot be written.
    """
    settings = given_in(namespace, [*Params.model_fields, "profile"])
    model, scale = settings.pop("model"), settings.pop("scale", None)
    # The parameters cell always has a scale, but a file names its own.
    return load(model, None if is_file(model) else scale, **settings)


def given_in(namespace: Mapping[str, Any], allowed: Collection[str]) -> dict[str, Any]:
    """The settings in a notebook's namespace (`globals()`): the current values of the names that its parameters cell
    or papermill has set. The cell may run any number of times. Other variables of the user do not count.

    IPython keeps the code of the cells that ran (`In`). The cell that papermill adds starts with `# Parameters`.
    The parameters cell is the latest one that assigns `model` and at least two more of the allowed names. If it sets
    only some of the names that an earlier one set, the others keep their current values. If no cell in the history
    assigns `model`, as under nbval, the allowed names count. A namespace without a history gives all its plain values.
    None in the parameters cell means "not given", and the name is left out. None that papermill sets for another name
    is null.

    allowed: names that the caller knows; other names are returned too, so that the caller can refuse them.
    Raises ParamsError if model is not set, and OSError if the cache cannot be written.
    """
    check_writable(cache_dir(), "cache ($LONGRECIPE_CACHE)")
    history = namespace.get("In")
    cells = [code for code in history if isinstance(code, str)] if isinstance(history, list) else []
    names, injected = _names(cells, set(allowed))
    if not names:
        # nbval keeps no history of cells, so only names that the caller knows count.
        known = set(allowed) if isinstance(history, list) else namespace.keys()
        names, injected = [name for name, value in namespace.items() if _is_plain(name, value) and name in known], []
    found = {name: namespace[name] for name in dict.fromkeys([*names, *injected]) if name in namespace}
    settings = {name: value for name, value in found.items() if value is not None or name not in names}
    if settings.get("model") is None:
        raise ParamsError("model is not set: run the notebook's parameters cell, its first one, before this cell.")
    return settings


def _names(cells: list[str], allowed: set[str]) -> tuple[list[str], list[str]]:
    """The names that the parameters cell sets, and those that papermill's cell sets."""
    injected: list[str] = []
    assigning: list[list[str]] = []
    for code in cells:
        names = _assigned(code)
        if code.lstrip().startswith("# Parameters\n"):
            injected = names
        elif "model" in names:
            assigning.append(names)
    # A cell in which the user sets model and variables of their own is no parameters cell.
    ran = [names for names in assigning if len(allowed & set(names)) >= 3] or assigning
    if not ran:
        return [], injected
    latest = allowed & set(ran[-1])
    earlier = [name for names in ran if latest <= set(names) for name in names if name in allowed]
    return [*ran[-1], *earlier], injected


def _assigned(code: str) -> list[str]:
    """The names that a cell assigns at its top level, up to a statement that calls `from_notebook`: names after it
    are results."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: list[str] = []
    for statement in statements:
        if any(getattr(each, "attr", getattr(each, "id", "")) == "from_notebook" for each in ast.walk(statement)):
            break
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
            names += [name for name in found if not name.startswith("_")]
    return names


def _is_plain(name: str, value: Any) -> bool:
    is_code = isinstance(value, types.ModuleType) or callable(value)
    return not name.startswith("_") and name not in _IPYTHON_NAMES and not is_code
