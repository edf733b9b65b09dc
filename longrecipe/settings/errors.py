"""Checks of settings; one error names every refused value and what is allowed."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo


class ParamsError(ValueError):
    """Settings that cannot be run; the message names each value, what is allowed and how to fix it."""


Settings = TypeVar("Settings", bound=BaseModel)


def checked(kind: type[Settings], values: Mapping[str, Any], source: str) -> Settings:
    """Make settings of a kind from values.

    source: where the values come from, for the error. Raises ParamsError that explains every refused value, and lists
    the known names if a name is unknown.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        lines = "\n".join(_explain(each, kind.model_fields) for each in error.errors())
        raise ParamsError(f"{lines}\n(settings from {source})") from None


def shown(value: Any) -> str:
    """A value as Python writes it, cut after 200 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python does not write integers with more than 4300 digits.
        return f"(a value of type {type(value).__name__}, too long to show)"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _explain(error: Mapping[str, Any], fields: Mapping[str, FieldInfo]) -> str:
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(name, fields, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return f"unknown parameter {shown(name)}.{hint} Allowed are {', '.join(fields)}."
    if error["type"] == "missing":
        return f"{name} is missing: {fields[name].description or 'a required key'}."
    if not name:
        return f"{error['ctx']['error']}".rstrip(".") + "."
    field = fields[str(error["loc"][0])]
    about = f" ({field.description})" if field.description else ""
    problem = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    problem = problem[0].lower() + problem[1:]
    if error["input"] is None:
        return f"{name} = null: cannot be null; {problem}{about}."
    return f"{name} = {shown(error['input'])}: {problem}{about}."
