"""Replace attributes of the harness's modules for a while, and silence it, because it has no arguments for this."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import Any


@contextmanager
def replaced(module: ModuleType, **attributes: Any) -> Iterator[None]:
    """Set attributes of a module, and give it the former ones back at the end."""
    before = {name: getattr(module, name) for name in attributes}
    for name, value in attributes.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


@contextmanager
def silent() -> Iterator[None]:
    """Without the harness's messages below errors, and without what modules print."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
