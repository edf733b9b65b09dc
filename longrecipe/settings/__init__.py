"""Settings of a run: defaults and groups, params files, notebooks, and checks before any work starts.

`groups` and `memory` define the settings, `schema` joins them to `Params`, `files` reads params files.
"""

from longrecipe.settings.errors import ParamsError, checked
from longrecipe.settings.files import available, changed, is_file, load, profiles
from longrecipe.settings.group import read_list
from longrecipe.settings.memory import Setup
from longrecipe.settings.mini import MiniParams, mini_from_notebook
from longrecipe.settings.notebook import from_notebook, given_in
from longrecipe.settings.paper import differences
from longrecipe.settings.reference import reference
from longrecipe.settings.schema import GROUPS, SCALES, Params, group_of, key_of

__all__ = [
    "GROUPS",
    "SCALES",
    "MiniParams",
    "Params",
    "ParamsError",
    "Setup",
    "available",
    "changed",
    "checked",
    "differences",
    "from_notebook",
    "given_in",
    "group_of",
    "is_file",
    "key_of",
    "load",
    "mini_from_notebook",
    "profiles",
    "read_list",
    "reference",
]
