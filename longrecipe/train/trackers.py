"""Experiment trackers: the one that Trainer reports to, and where it writes."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec

from longrecipe.system.paths import cache_dir

PROJECT = "longrecipe"


def check_tracker(report_to: str) -> None:
    """Raise ValueError if the package of a tracker is not installed."""
    if report_to != "none" and find_spec(report_to) is None:
        raise ValueError(
            f"report_to = {report_to!r} needs the package {report_to}, which is not installed: pip install "
            f"{report_to}, or set report_to to none."
        )


@contextmanager
def tracked(report_to: str, run_name: str | None) -> Iterator[None]:
    """Let a tracker write to the cache while the block trains, and close its run at the end, also after an error.

    A tracker writes to `<cache>/trackers`; trackio keeps its own folder, which `trackio show` reads. The trackers'
    environment variables, such as WANDB_DIR, win. A run that was open before the block stays open.
    """
    set_here = {name: value for name, value in _places(report_to, run_name).items() if name not in os.environ}
    if set_here:
        (cache_dir() / "trackers").mkdir(parents=True, exist_ok=True)
    was_open = _is_open(report_to)
    os.environ.update(set_here)
    try:
        yield
    finally:
        if not was_open and _is_open(report_to):
            module = import_module(report_to)
            (module.finish if report_to == "wandb" else module.end_run)()
        for name in set_here:
            os.environ.pop(name, None)


def _places(report_to: str, run_name: str | None) -> dict[str, str]:
    """The environment variables that set the folder of a tracker."""
    folder = cache_dir() / "trackers"
    return {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / str(run_name))},
        "wandb": {"WANDB_DIR": str(folder), "WANDB_PROJECT": PROJECT},
        "mlflow": {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "MLFLOW_EXPERIMENT_NAME": PROJECT,
        },
    }.get(report_to, {})


def _is_open(report_to: str) -> bool:
    """Whether a run is open that Trainer would report to. Trainer does not close one of wandb."""
    if report_to == "wandb":
        return import_module("wandb").run is not None
    return report_to == "mlflow" and import_module("mlflow").active_run() is not None
