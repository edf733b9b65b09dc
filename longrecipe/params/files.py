"""Settings read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from longrecipe.params.settings import SCALES, Params
from longrecipe.paths import params_dir

# What IPython keeps in a notebook's namespace beside the parameters cell.
_IPYTHON_NAMES = {"In", "Out", "get_ipython", "exit", "quit", "open"}


class ParamsError(ValueError):
    """Settings that cannot be run; the message names each value, what is allowed and how to mend it."""


def available() -> dict[str, list[str]]:
    """The models of each scale that have a params file."""
    return {scale: sorted(p.stem for p in (params_dir() / scale).glob("*.yaml")) for scale in SCALES}


def profiles(path: Path) -> dict[str, Path]:
    """The profiles of a params file by name: files of its name in folders beside it, with the keys that differ."""
    return {file.parent.name: file for file in sorted(path.parent.glob(f"*/{path.name}"))}


def load(model: str, scale: str = "mini", profile: str | None = None, **overrides: Any) -> Params:
    """The settings of `params/<scale>/<model>.yaml`, with overrides by name; None leaves the file's value.

    model may also be the path of a params file of your own (`.yaml`); scale then comes from the file. profile: one of
    `profiles`, keys of the file changed together, as cpu for what a computer without a GPU can run; overrides win.
    Raises ParamsError that lists what is allowed, for an unknown model, scale, profile or key and for impossible
    values.
    """
    path = Path(str(model))
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise ParamsError(f"model = {model!r}: there is no such params file.")
        named = {}
    else:
        choices = available()
        if scale not in SCALES:
            raise ParamsError(f"scale = {scale!r}: allowed are {', '.join(SCALES)}.")
        if model not in choices[scale]:
            listed = "; ".join(f"{s}: {', '.join(m) or 'none yet'}" for s, m in choices.items())
            raise ParamsError(f"model = {model!r} has no params file at scale {scale!r}. There are {listed}.")
        path = params_dir() / scale / f"{model}.yaml"
        named = {"model": model, "scale": scale}
    values = _read(path)
    if profile is not None:
        known = profiles(path)
        if profile not in known:
            there = f"of {path.name} there are {', '.join(known)}" if known else f"{path.name} has none"
            raise ParamsError(f"profile = {profile!r}: {there}.")
        values |= _read(known[profile])
    given = {k: v for k, v in overrides.items() if v is not None}
    source = path.name if profile is None else f"{path.name}, profile {profile}"
    return checked(Params, {**values, **named, **given}, source=source)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path.name} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path.name} must hold `key: value` lines, flat; it holds {type(values).__name__}.")
    return values


def changed(params: Params, **changes: Any) -> Params:
    """The settings with some of them changed, checked anew. Raises ParamsError."""
    return checked(Params, params.model_dump() | changes, source="a changed run")


def plain_values(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a notebook's namespace: what its parameters cell and papermill's -p have set."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _IPYTHON_NAMES
        and not isinstance(value, types.ModuleType)
        and not callable(value)
    }


def from_notebook(namespace: Mapping[str, Any]) -> Params:
    """The settings of a notebook: the plain values in its namespace (`globals()`) override the params file.

    Call it in the cell after the parameters cell, before other names are made. papermill only warns about a `-p` name
    that a notebook does not know; here it is an error. Raises ParamsError.
    """
    plain = plain_values(namespace)
    return load(plain.pop("model", "llama3"), plain.pop("scale", "mini"), **plain)


Settings = TypeVar("Settings", bound=BaseModel)


def checked(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Settings of a kind made from values; source says in errors where these come from.

    Raises ParamsError that explains every value that is refused, and lists the names where one is unknown.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        told = "\n".join(_explain(each, kind.model_fields) for each in error.errors())
        raise ParamsError(f"{told}\n(settings from {source})") from None


def _explain(error: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown parameter {name!r}.{hint} Allowed are {', '.join(fields)}."
    if error["type"] == "missing":
        return f"{name} is missing: {fields[name].description or 'a required key'}."
    if not name:
        return f"{error['ctx']['error']}".rstrip(".") + "."
    field = fields[str(error["loc"][0])]
    about = f" ({field.description})" if field.description else ""
    return f"{name} = {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{about}."
