"""Settings of a run: read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

from longrecipe.params.arguments import add_settings, given_settings
from longrecipe.params.files import (
    ParamsError,
    available,
    changed,
    checked,
    from_notebook,
    load,
    plain_values,
    profiles,
)
from longrecipe.params.settings import MEMORY, SCALES, Params, key_of

__all__ = [
    "MEMORY",
    "SCALES",
    "Params",
    "ParamsError",
    "add_settings",
    "available",
    "changed",
    "checked",
    "from_notebook",
    "given_settings",
    "key_of",
    "load",
    "plain_values",
    "profiles",
]
