"""The disk space of a run: how much it needs, a check before any work, and the error if the disk is full."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from longrecipe import cost, models
from longrecipe.recipe.export import out_folder
from longrecipe.settings import Params
from longrecipe.system.diskfull import free_bytes, full_disk_reported
from longrecipe.system.paths import cache_dir
from longrecipe.train.memory import setup_of


def check_disk(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError if a run writes more than the disk of the cache has free (modelled by `cost.disk_bytes`)."""
    need, folder = disk_need(p, config), cache_dir()
    free = free_bytes(folder)
    if need > free:
        raise ValueError(
            f"the run writes about {need / cost.GB:.1f} GB to {folder} (modelled: stages, checkpoints, samples and the "
            f"export), but {free / cost.GB:.1f} GB are free there: free some space, or set $LONGRECIPE_CACHE to "
            "another disk."
        )


def run_disk_reported(p: Params) -> AbstractContextManager[None]:
    """A context that reports a full disk as `diskfull.DiskFullError`, with the space that the run needs."""

    def written_to() -> dict[Path, str]:
        return {
            cache_dir(): "move the folder to another disk and set LONGRECIPE_CACHE to it",
            out_folder(p).parent: "use a folder on another disk (--out FOLDER, or the settings key out)",
        }

    return full_disk_reported(written_to, lambda: disk_need(p, models.config_of(p.source, p.scale)))


def disk_need(p: Params, config: PreTrainedConfig) -> float:
    """The most bytes that a run writes. Text is only counted if text_tokens is set."""
    short = p.replay_steps * p.replay_batch_size * p.short_length
    probe = p.probe_steps * p.probe_batch_size * (p.probe_length or p.probe_window)
    rows = p.n_documents * p.train_length + probe + short
    text = (p.text_tokens or 0) * (1 + bool(p.replay_text)) if p.text else 0
    copies = len(p.eval_steps or ())
    return cost.disk_bytes(config, setup_of(p), n_row_tokens=rows, n_text_tokens=text, n_copies=copies)


def reports_full_disk(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method raise `diskfull.DiskFullError` if a disk is full. Its object must have `params`."""

    @functools.wraps(method)
    def with_report(self: Any, *args: Any, **kwargs: Any) -> Any:
        with run_disk_reported(self.params):
            return method(self, *args, **kwargs)

    return with_report
