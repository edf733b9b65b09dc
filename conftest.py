"""What pytest's own files cannot say: paths of the repository, a cache of its own, and the order of files."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# Before tests import transformers, as it silences what torchao then writes.
import longrecipe  # noqa: F401

ROOT = Path(__file__).resolve().parent
# Before torch is imported: workers and kernels with several threads each take them from one another, and other numbers
# of threads sum in other orders.
os.environ["OMP_NUM_THREADS"] = "1"
KINDS = ("tests", "notebooks")
# Files that take longest, in the order in which workers start them, so that all workers end at about the same time.
LONGEST = (
    "03_train.ipynb",
    "test_notebooks.py",
    "test_train.py",
    "test_runner.py",
    "test_recipe.py",
    "test_readme.py",
    "00_mini_models.ipynb",
    "02_position_transform.ipynb",
    "test_train_sharding.py",
    "test_train_savings.py",
    "test_minis.py",
    "test_codehash.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Point nbval at the sanitize file, keep kernels in the repository, and give all workers empty caches."""
    if hasattr(config.option, "nbval_sanitize_with"):
        config.option.nbval_sanitize_with = config.option.nbval_sanitize_with or str(ROOT / "tests/nbval_sanitize.cfg")
    os.environ.setdefault("LONGRECIPE_ROOT", str(ROOT))
    # Finished stages in a developer's cache would let a notebook pass without training. Workers inherit this one.
    if not hasattr(config, "workerinput"):
        cache = tempfile.TemporaryDirectory(prefix="longrecipe-cache-", ignore_cleanup_errors=True)
        config.add_cleanup(cache.cleanup)
        os.environ["LONGRECIPE_CACHE"] = cache.name
        # The user's list of fonts may lack those of this environment: matplotlib then warns in notebooks. It also warns
        # if making the list takes over 5 seconds, so the list is made before the first kernel starts.
        os.environ["MPLCONFIGDIR"] = str(Path(cache.name, "matplotlib"))
        subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], check=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Runs of notebooks replace rows of results/ in what is read from their cache, which tests must not see."""
    cache = Path(os.environ["LONGRECIPE_CACHE"])
    cache = cache if cache.name not in KINDS else cache.parent
    os.environ["LONGRECIPE_CACHE"] = str(cache / KINDS[item.path.suffix == ".ipynb"])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Notebooks are slow tests; the longest files come first."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker("slow")
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
