"""longrecipe: reproduce, understand and use LongRecipe (arXiv 2409.00509).

`longrecipe.prepare(longrecipe.load("llama3"))` prepares a run, a `Recipe`, from the settings of a params file. The
packages (`positions`, `tokens`, `train`, `merge`, ...) work on their own, too; see docs/architecture.md.
"""

import logging
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Imported when they are used, as torch and transformers take seconds to import.
_PUBLIC = {
    "load": "longrecipe.settings",
    "Params": "longrecipe.settings",
    "ParamsError": "longrecipe.settings",
    "prepare": "longrecipe.recipe",
    "Recipe": "longrecipe.recipe",
    "METHODS": "longrecipe.positions",
}

# transformers imports torchao if it is installed, and torchao then warns in every notebook about kernels for other
# GPUs and, through PyTorch, about its own use of enums.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'longrecipe' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
