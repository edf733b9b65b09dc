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

# The file of each scale that settings of your own are applied to.
TEMPLATES = {"mini": "llama3", "small": "smollm2", "paper": "llama3"}
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

    scale: None takes mini. model may also be the path of a params file of your own (`.yaml`), which names its scale.
    Your file may hold only the keys that differ, as `params/own.yaml` does: the others come from the file of its scale
    (see `on_template`).
    profile: one of `profiles`, keys of the file changed together, such as cpu for a computer without a GPU; overrides
    win. If profile or overrides set a shorter target_length, the file's lengths follow it (see `changed`).
    `window: null` reads the window from the model's configuration.
    Raises ParamsError that lists what is allowed, for an unknown model, scale, profile or key and for impossible
    values, and if the window has to be read from a model that is not there.
    """
    given = {name: None if isinstance(value, str) and value in _NULL else value for name, value in overrides.items()}
    scale, profile = (None if each in _NULL else each for each in (scale, profile))
    if is_file(model):
        path = _own_file(model)
        given |= {} if scale is None else {"scale": scale}
        named, values = {}, read(path)
    else:
        scale = "mini" if scale is None else scale
        path = _shipped(model, scale)
        named, values = {"model": model, "scale": scale}, read(path)
    if profile is not None:
        known = profiles(path)
        if not isinstance(profile, str) or profile not in known:
            there = f"of {path.name} there are {', '.join(known)}" if known else f"{path.name} has none"
            raise ParamsError(f"profile = {shown(profile)}: {there}.")
        values = _shortened(values, read(known[profile]))
    values = _shortened(values | named, given)
    source = path.name if profile is None else f"{path.name}, profile {profile}"
    own = None if named else values
    if own is not None:
        values = on_template(own, path.stem)
    if "window" in values and values["window"] is None:
        values["window"] = _own_window(values)
    if own is not None and "probe_length" not in own and values.get("probe_length"):
        # The template's samples of H' may be longer than the window that H' is trained to here.
        window, target = _whole(values.get("window")), _whole(values.get("target_length"))
        probe_window = _whole(values.get("probe_window")) or 2 * (window or 0)
        values["probe_length"] = min([values["probe_length"], *filter(None, (probe_window, target))])
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
        told = f"scale = {shown(scale)}: allowed are {', '.join(SCALES)}" if scale else "scale is missing"
        raise ParamsError(f"{told}. It chooses the file that your settings are applied to: small (up to 2B) or paper.")
    file = params_dir() / scale / f"{model if model in available()[scale] else TEMPLATES[scale]}.yaml"
    template = read(file) | {"window": None, "probe_window": None, "analysis_length": None, "eval_lengths": None}
    del template["target_length"]
    return template | {"model": model} | dict(values)


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
            f"window is null, and the configuration of {shown(source)} names none: give the window in tokens."
        )
    return window


def changed(params: Params, /, **changes: Any) -> Params:
    """The settings with some of them changed, and checked again.

    A shorter target_length shortens the lengths of the analysis with it, and drops those of eval_lengths above it
    (which is logged), if these are not among the changes. Raises ParamsError.
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
    """A value as the whole number that a setting would read from it; None if it is none."""
    try:
        return TypeAdapter(int).validate_python(value)
    except ValidationError:
        return None
