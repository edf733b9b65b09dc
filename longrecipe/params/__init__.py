"""Settings of a run: read from `params/<scale>/<model>.yaml`, overridden by name, checked before anything starts."""

from longrecipe.params.arguments import add_settings, given_settings
from longrecipe.params.checks import ParamsError, checked
from longrecipe.params.files import available, changed, is_file, load, profiles
from longrecipe.params.mini import MiniParams, mini_from_notebook
from longrecipe.params.notebook import from_notebook, given_in
from longrecipe.params.settings import MEMORY, SCALES, Params, key_of, read_list

__all__ = [
    "MEMORY",
    "SCALES",
    "MiniParams",
    "Params",
    "ParamsError",
    "add_settings",
    "available",
    "changed",
    "checked",
    "from_notebook",
    "given_in",
    "given_settings",
    "is_file",
    "key_of",
    "load",
    "mini_from_notebook",
    "profiles",
    "read_list",
]
