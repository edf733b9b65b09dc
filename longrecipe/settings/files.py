"""Settings read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

import glob
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from longrecipe.models.loading import config_of
from longrecipe.settings.errors import ParamsError, checked, shown
from longrecipe.settings.schema import SCALES, Params
from longrecipe.settings.yamlfile import read
from longrecipe.system.paths import params_dir, user_path

log = logging.getLogger(__name__)

# The file of each scale that other models of the scale start from.
TEMPLATES = {"mini": "llama3", "small": "smollm2", "paper": "llama3"}
# Lengths that belong to one model. A file does not take them from the file that it starts from.
OWN_LENGTHS = ("window", "target_length", "probe_window", "analysis_length", "eval_lengths")
# How a command line and papermill write null: papermill passes `null` as text.
_NULL = ("null", "None")


def available() -> dict[str, list[str]]:
    """The models of each scale that have a params file."""
    return {scale: sorted(p.stem for p in (params_dir() / scale).glob("*.yaml")) for scale in SCALES}


def profiles(path: Path) -> dict[str, Path]:
    """The profiles of a params file by name: files of its name in folders next to it, with the keys that differ."""
    return {file.parent.name: file for file in sorted(path.parent.glob(f"*/{glob.escape(path.name)}"))}


def load(model: str, /, scale: str | None = None, profile: str | None = None, **overrides: Any) -> Params:
    """The settings of `params/<scale>/<model>.yaml`, with overrides by name. None (or the text null) is a value like
    any other: it resets a key that can be null, and is refused for others.

    A file holds only what differs: it starts from the template of its scale (TEMPLATES), and a template starts from
    the defaults of `Params`. A file of your own starts from the shipped file of its model instead, if there is one.
    Lengths that belong to a model (OWN_LENGTHS) always come from the file itself: it names its target_length, a
    window that is missing or null is read from the model's configuration, and the others follow from these two.

    model: may also be the path of a params file of your own (`.yaml`), which names its scale. scale: None takes mini.
    profile: one of `profiles`, settings that change together, such as cpu for a computer without a GPU; overrides win.
    If profile or overrides set a shorter target_length, the file's lengths follow it (see `changed`).
    Raises ParamsError that lists what is allowed, for an unknown model, scale, profile or key and for impossible
    values, and if the window cannot be read.
    """
    given = {name: None if isinstance(value, str) and value in _NULL else value for name, value in overrides.items()}
    scale, profile = (None if each in _NULL else each for each in (scale, profile))
    if is_file(model):
        path, named = _own_file(model), {} if scale is None else {"scale": scale}
    else:
        scale = "mini" if scale is None else scale
        path, named = _shipped(model, scale), {"model": model, "scale": scale}
    values, source = read(path), path.name
    if profile is not None:
        values, source = _shortened(values, _profile(path, profile)), f"{path.name}, profile {profile}"
    own = {"model": path.stem} | _shortened(values | named, given)
    inherited = _inherited(path, own)
    longest = None if "probe_length" in own else inherited.pop("probe_length", None)
    values = inherited | own
    if "target_length" not in values:
        about = Params.model_fields["target_length"].description
        raise ParamsError(f"target_length is missing: {about}.\n(settings from {source})")
    if values.get("window") is None:
        values["window"] = _own_window(values)
    params = checked(Params, values, source=source)
    # Samples of H' as long as in the other file may exceed the window of H' here.
    return params if longest is None else changed(params, probe_length=min(longest, params.probe_window))


def _inherited(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the file that a file starts from, without OWN_LENGTHS; none for a template.

    values: of the file, with its scale and model. Raises ParamsError if the scale is missing or unknown.
    """
    scale, model = values.get("scale"), values["model"]
    if scale not in SCALES:
        problem = f"scale = {shown(scale)}: allowed are {', '.join(SCALES)}" if scale else "scale is missing"
        raise ParamsError(f"{problem}. It chooses the file that your settings start from: small (up to 2B) or paper.")
    folder = (params_dir() / scale).resolve()
    is_own = path.resolve().parent != folder
    start = folder / f"{model if is_own and model in available()[scale] else TEMPLATES[scale]}.yaml"
    if path.resolve() == start:
        return {}
    found = read(start)
    found = _inherited(start, found) | found
    return {name: value for name, value in found.items() if name not in OWN_LENGTHS}


def _profile(path: Path, profile: Any) -> dict[str, Any]:
    known = profiles(path)
    if not isinstance(profile, str) or profile not in known:
        there = f"of {path.name} there are {', '.join(known)}" if known else f"{path.name} has none"
        raise ParamsError(f"profile = {shown(profile)}: {there}.")
    return read(known[profile])


def is_file(model: Any) -> bool:
    """Whether a value for model is the path of a params file, and not a name."""
    return Path(str(model)).suffix in (".yaml", ".yml")


def _own_file(model: str) -> Path:
    try:
        path = user_path(model)
        if path.is_file():
            return path
    except (OSError, ValueError) as error:
        raise ParamsError(f"model = {shown(str(model))}: is not the path of a params file ({error}).") from error
    there = f"{path} is a folder, not a params file" if path.is_dir() else f"there is no params file {path}"
    raise ParamsError(f"model = {shown(str(model))}: {there}.")


def _shipped(model: str, scale: str) -> Path:
    choices = available()
    if scale not in SCALES:
        raise ParamsError(f"scale = {shown(scale)}: allowed are {', '.join(SCALES)}.")
    if model not in choices[scale]:
        listed = "; ".join(f"{s}: {', '.join(m) or 'none yet'}" for s, m in choices.items())
        raise ParamsError(
            f"model = {shown(model)} has no params file at scale {scale!r}. There are {listed}. For a model of your "
            "own, give a params file, such as a copy of params/own.yaml."
        )
    return params_dir() / scale / f"{model}.yaml"


def _own_window(values: Mapping[str, Any]) -> int:
    source = str(values.get("weights") or values.get("model"))
    try:
        window = getattr(config_of(source, str(values.get("scale"))), "max_position_embeddings", None)
    except (OSError, ValueError) as error:
        raise ParamsError(f"window is null, and cannot be read from {shown(source)}: {error}") from error
    if not window:
        raise ParamsError(
            f"window is null, and the configuration of {shown(source)} has none: give the window in tokens."
        )
    return window


def changed(params: Params, /, **changes: Any) -> Params:
    """The settings with some of them changed, and checked again.

    A shorter target_length also shortens the lengths of the analysis, and drops the eval_lengths above it (which is
    logged), unless these are among the changes. Raises ParamsError.
    """
    return checked(Params, _shortened(params.model_dump(), changes), source="a changed run")


def _shortened(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes; lengths that are not among the changes follow a shorter target_length."""
    changed, target = dict(values) | changes, _whole(changes.get("target_length"))
    if target is None:
        return changed
    for name in {"probe_window", "probe_length", "analysis_length"} - changes.keys():
        if isinstance(changed.get(name), int):
            changed[name] = min(changed[name], target)
    lengths = changed.get("eval_lengths")
    if "eval_lengths" not in changes and isinstance(lengths, list | tuple):
        dropped = [n for n in lengths if isinstance(n, int) and n > target]
        if dropped:
            changed["eval_lengths"] = [n for n in lengths if n not in dropped] or None
            log.info("eval_lengths: %s not measured, above target_length = %d", dropped, target)
    return changed


def _whole(value: Any) -> int | None:
    """A value as a whole number, read as a setting would read it; None if it is not one."""
    try:
        return TypeAdapter(int).validate_python(value)
    except ValidationError:
        return None
