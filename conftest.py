"""Test settings that pytest's own files cannot hold: nbval needs an absolute path, and runs must not leave a cache."""

import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    """Point nbval at the sanitize file, keep kernels in the repository, and give runs a cache of their own."""
    if hasattr(config.option, "nbval_sanitize_with"):
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(ROOT / "tests/nbval_sanitize.cfg")
    os.environ.setdefault("LONGRECIPE_ROOT", str(ROOT))
    # Finished stages in a developer's cache would let a notebook pass without training.
    cache = tempfile.TemporaryDirectory(prefix="longrecipe-cache-")
    config.add_cleanup(cache.cleanup)
    os.environ["LONGRECIPE_CACHE"] = cache.name
