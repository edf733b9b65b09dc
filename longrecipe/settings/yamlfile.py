"""A params file: flat `key: value` lines of YAML, each key once."""

from pathlib import Path
from typing import Any

import yaml

from longrecipe.settings.errors import ParamsError, shown
from longrecipe.settings.schema import TEXT
from longrecipe.system.errors import reason

_PREFIX = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """YAML in which 2024-01-01 is text: no setting is a date."""


_Loader.yaml_implicit_resolvers = {
    first: [each for each in found if each[0] != f"{_PREFIX}timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read(path: Path) -> dict[str, Any]:
    """The settings of a params file, by key. Numbers given for a text key are kept as they are written (`0012`).

    Raises ParamsError if the file cannot be read, is not flat YAML, or names a key twice.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
        if not isinstance(root, yaml.MappingNode):
            held = {yaml.SequenceNode: "a list", yaml.ScalarNode: "one value"}.get(type(root), "nothing")
            raise ParamsError(f"{path} must hold `key: value` lines, flat; it holds {held}.")
        lines: dict[str, int] = {}
        values = {}
        for key_node, node in root.value:
            key, line = _key(path, key_node), key_node.start_mark.line + 1
            if key in lines:
                raise ParamsError(f"{path} has the key {key} twice, in lines {lines[key]} and {line}: remove one.")
            lines[key], values[key] = line, _value(path, key, node)
    except OSError as error:
        raise ParamsError(f"{path} cannot be read ({error.strerror or reason(error)}).") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ParamsError(f"{path} is not valid YAML in UTF-8: {error}") from error
    return values


def _key(path: Path, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != f"{_PREFIX}str":
        written = shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or a mapping"
        raise ParamsError(f"{path}, line {node.start_mark.line + 1}: {written} cannot be a key; keys are names.")
    return node.value


def _value(path: Path, key: str, node: yaml.Node) -> Any:
    where = f"{path}, line {node.start_mark.line + 1}: {key}"
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(item, yaml.ScalarNode) for item in items):
        raise ParamsError(f"{where} must be one value, or a list of values such as [512, 1024].")
    if key in TEXT and node.tag in (f"{_PREFIX}int", f"{_PREFIX}float"):
        return node.value
    try:
        value = yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except (ValueError, KeyError) as error:
        raise ParamsError(f"{where} = {shown(node.value)} cannot be read ({reason(error)}).") from error
    if not isinstance(value, str | int | float | list | None):
        raise ParamsError(f"{where} must be text, a number, true, false, null or a list; it is {type(value).__name__}.")
    return value
