"""Settings read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

import difflib
import glob
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from longrecipe.models import config_of
from longrecipe.params.settings import SCALES, Params
from longrecipe.paths import params_dir, user_path

# The file of each scale that settings of your own are applied to.
TEMPLATES = {"mini": "llama3", "small": "smollm2", "paper": "llama3"}
# What IPython keeps in a notebook's namespace beside the parameters cell.
_IPYTHON_NAMES = {"In", "Out", "get_ipython", "exit", "quit", "open"}


class ParamsError(ValueError):
    """Settings that cannot be run; the message names each value, what is allowed and how to fix it."""


def available() -> dict[str, list[str]]:
    """The models of each scale that have a params file."""
    return {scale: sorted(p.stem for p in (params_dir() / scale).glob("*.yaml")) for scale in SCALES}


def profiles(path: Path) -> dict[str, Path]:
    """The profiles of a params file by name: files of its name in folders next to it, with the keys that differ."""
    return {file.parent.name: file for file in sorted(path.parent.glob(f"*/{glob.escape(path.name)}"))}


def load(model: str, scale: str | None = None, profile: str | None = None, **overrides: Any) -> Params:
    """The settings of `params/<scale>/<model>.yaml`, with overrides by name; None leaves the file's value.

    scale: None takes mini. model may also be the path of a params file of your own (`.yaml`), which names its scale.
    Your file may hold only the keys that differ, as `params/own.yaml` does: the others come from the file of its scale
    (see `on_template`).
    profile: one of `profiles`, keys of the file changed together, such as cpu for a computer without a GPU; overrides
    win. A shorter target_length among them shortens the file's lengths of the analysis. `window: null` reads the window
    from the model's configuration.
    Raises ParamsError that lists what is allowed, for an unknown model, scale, profile or key and for impossible
    values; FileNotFoundError if the window has to be read from a model that is not there.
    """
    path, given = Path(str(model)), {k: v for k, v in overrides.items() if v is not None}
    if _is_file(model):
        path = user_path(path)
        given |= {"scale": scale} if scale else {}
        if not path.is_file():
            raise ParamsError(f"model = {str(model)!r}: there is no params file {path}.")
        named, values = {}, _read(path)
    else:
        scale = scale or "mini"
        path = _shipped(model, scale)
        named, values = {"model": model, "scale": scale}, _read(path)
    if profile is not None:
        known = profiles(path)
        if profile not in known:
            there = f"of {path.name} there are {', '.join(known)}" if known else f"{path.name} has none"
            raise ParamsError(f"profile = {profile!r}: {there}.")
        values |= _read(known[profile])
    values = _shortened(values | named, given)
    source = path.name if profile is None else f"{path.name}, profile {profile}"
    own = None if named else values
    if own is not None:
        values = on_template(own, path.stem)
    if "window" in values and values["window"] is None:
        values["window"] = _own_window(values)
    if own is not None and "probe_length" not in own and values.get("probe_length"):
        # The template's samples of H' may be longer than the window that H' is trained to here.
        numbers = {name: n for name, n in values.items() if isinstance(n, int)}
        limits = [numbers.get("probe_window", 2 * numbers.get("window", 0)), numbers.get("target_length", 0)]
        values["probe_length"] = min([values["probe_length"], *filter(None, limits)])
    return checked(Params, values, source=source)


def on_template(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Settings of your own on top of the file of their scale: `params/small/smollm2.yaml`, `params/paper/llama3.yaml`
    or `params/mini/llama3.yaml`, or the one that your `model` names.

    The lengths in that file belong to its own model: the probe, the analysis and the measured lengths follow your
    window and your target_length, which is required, unless you give them. name: of the run if there is no key model.
    Settings that have every required key are returned as they are. Raises ParamsError without a valid scale.
    """
    if not {key for key, field in Params.model_fields.items() if field.is_required()} - values.keys():
        return dict(values)
    scale, model = values.get("scale"), values.get("model") or name
    if scale not in SCALES:
        told = f"scale = {scale!r}: allowed are {', '.join(SCALES)}" if scale else "scale is missing"
        raise ParamsError(f"{told}. It chooses the file that your settings are applied to: small (up to 2B) or paper.")
    file = params_dir() / scale / f"{model if model in available()[scale] else TEMPLATES[scale]}.yaml"
    template = _read(file) | {"window": None, "probe_window": None, "analysis_length": None, "eval_lengths": None}
    del template["target_length"]
    return template | {"model": model} | dict(values)


def _is_file(model: str) -> bool:
    return Path(str(model)).suffix in (".yaml", ".yml")


def _shipped(model: str, scale: str) -> Path:
    choices = available()
    if scale not in SCALES:
        raise ParamsError(f"scale = {scale!r}: allowed are {', '.join(SCALES)}.")
    if model not in choices[scale]:
        listed = "; ".join(f"{s}: {', '.join(m) or 'none yet'}" for s, m in choices.items())
        raise ParamsError(
            f"model = {model!r} has no params file at scale {scale!r}. There are {listed}. For a model of your own, "
            "give a params file, such as a copy of params/own.yaml."
        )
    return params_dir() / scale / f"{model}.yaml"


def _own_window(values: Mapping[str, Any]) -> int:
    source = values.get("weights") or values.get("model")
    window = getattr(config_of(str(source), str(values.get("scale"))), "max_position_embeddings", None)
    if not window:
        raise ParamsError(f"window is null, and the configuration of {source!r} names none: give the window in tokens.")
    return window


def _read(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must hold `key: value` lines, flat; it holds {type(values).__name__}.")
    return values


def changed(params: Params, **changes: Any) -> Params:
    """The settings with some of them changed, and checked again. A shorter target_length shortens the lengths of the
    analysis with it. Raises ParamsError."""
    return checked(Params, _shortened(params.model_dump(), changes), source="a changed run")


def _shortened(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes; lengths of the analysis that are not among these follow a shorter target_length."""
    changed, target = dict(values) | changes, str(changes.get("target_length", ""))
    for name in {"probe_window", "probe_length", "analysis_length"} - changes.keys() if target.isdecimal() else ():
        if isinstance(changed.get(name), int):
            changed[name] = min(changed[name], int(target))
    return changed


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
    model, scale = plain.pop("model", "llama3"), plain.pop("scale", "mini")
    # A notebook's cell always has a scale; a file names its own.
    return load(model, None if _is_file(model) else scale, **plain)


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
