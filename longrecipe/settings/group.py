"""What all groups of settings share: checks of each value, and lists that are passed as text."""

from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

# Number formats of training and measuring.
Precision = Literal["auto", "bf16", "fp32"]


class Group(BaseModel):
    """A group of settings, each with a default. Lengths are in tokens."""

    # papermill reads numbers from its command line: a folder may be named 2024.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    @field_validator("*", mode="before")
    @classmethod
    def _has_its_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = kinds_of(cls.model_fields[str(info.field_name)])
        if isinstance(value, bool) and bool not in kinds:
            raise ValueError(f"a {'text' if str in kinds else 'value'} is needed, not true or false")
        _check_size(value)
        return value

    @field_validator("*")
    @classmethod
    def _is_usable(cls, value: Any) -> Any:
        _check_size(value)
        if isinstance(value, str) and (not value.strip() or "\0" in value):
            raise ValueError("contains a NUL character" if value.strip() else "is empty")
        return value


def kinds_of(field: FieldInfo) -> set[Any]:
    """The types of a field, `{int, NoneType}` for `int | None`; of a Literal the values."""
    return set(get_args(field.annotation)) or {field.annotation}


def read_list(value: Any) -> Any:
    """A list that a command line or papermill passes as text, `[512, 1024]`; other values are returned unchanged.

    Raises ValueError if the text is no list.
    """
    if not isinstance(value, str):
        return value
    try:
        found = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError("is not a list, such as [a, b]") from error
    if not isinstance(found, list):
        raise ValueError("is not a list, such as [a, b]")
    return found


def _check_size(value: Any) -> None:
    # Larger numbers overflow when they are multiplied or written.
    if isinstance(value, int) and abs(value) >= 2**53:
        raise ValueError("is too large, at most 2**53 - 1")
