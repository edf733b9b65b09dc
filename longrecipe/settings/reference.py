"""The commented list of all settings, written from their definitions: `params/reference.yaml`."""

import textwrap
import types
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from longrecipe.settings.schema import GROUPS

HEADER = """\
# Every setting of a run: what it does, which values are allowed, and its default. The defaults are the default run, a
# small Llama-3 that is extended 16 times on a CPU. Lengths are in tokens. W is the window of the base model, T the
# target window, H the base model, and H' the model of the token analysis (see docs/glossary.md).
#
# A params file contains only the settings that differ (see own.yaml). You can also change any setting in the parameters
# cell of a notebook, or with -p KEY VALUE for papermill and on the command line (see docs/settings.md). Write learning
# rates as 1.0e-3: papermill reads 1e-3 as text.
#
# This file is generated: `longrecipe check --reference > params/reference.yaml`.
"""
_KINDS = {bool: "true | false", int: "whole number", float: "number", str: "text", types.NoneType: "null"}
_LIMITS = {"ge": "at least {}", "gt": "above {}", "le": "at most {}", "lt": "below {}"}


def reference() -> str:
    """Every setting by group, with its description, allowed values and default, as the text of a YAML file."""
    parts = [HEADER]
    for name, group in GROUPS.items():
        about = " ".join((group.__doc__ or "").split())
        parts.append(f"\n# ---- {name} ----\n{_comment(about)}")
        parts += [f"\n{_entry(key, field)}" for key, field in group.model_fields.items()]
    return "".join(parts)


def _entry(key: str, field: FieldInfo) -> str:
    value = yaml.safe_dump({key: field.default}, allow_unicode=True, width=1000)
    return f"{_comment(f'{field.description}.')}{_comment(f'Allowed: {_allowed(field)}')}{value}"


def _comment(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


def _allowed(field: FieldInfo) -> str:
    """What a setting may be, in words: `null, or whole number (at least 1)`."""
    annotation = field.annotation
    kinds = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    words = ", ".join(_kind(kind) for kind in kinds if kind is not types.NoneType)
    limits = ", ".join(
        text.format(f"{limit:,}")
        for each in field.metadata
        for name, text in _LIMITS.items()
        if (limit := getattr(each, name, None)) is not None
    )
    null = "null, or " if field.default is None or types.NoneType in kinds else ""
    return f"{null}{words}{f' ({limits})' if limits else ''}"


def _kind(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"list, each item {_kind(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    return _KINDS[kind]
