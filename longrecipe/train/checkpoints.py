"""Checkpoints of a stage: find the last complete one, from which a run can resume."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from longrecipe.models.checkpoint import MergeError, read_checkpoint
from longrecipe.system.processes import is_main

log = logging.getLogger(__name__)
# Merging holds a shard of the merged model in memory; transformers' own shards have up to 50 GB.
SHARD_SIZE = "5GB"
# The files needed to resume exactly. Each has one of several names: for one process or DDP, FSDP2, ZeRO-3.
_NEEDED = (
    ("model*.safetensors", "pytorch_model*", "global_step*"),
    ("optimizer*", "global_step*"),
    ("scheduler.pt",),
    ("rng_state*",),
    # Trainer writes this one last.
    ("trainer_state.json",),
)


def latest_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in folder, None if there is none.

    Later checkpoints are damaged or incomplete; the main process removes them and logs a warning.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        problem = missing(checkpoint) or damaged(checkpoint)
        if problem is None:
            return checkpoint
        log.warning("%s is damaged or incomplete (%s) and is not used", checkpoint, problem)
        if is_main():
            shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def missing(checkpoint: Path) -> str | None:
    """The first kind of file that a checkpoint lacks, in words; None if it has all files needed to resume exactly."""
    # Another process may be removing it.
    names = [path.name for path in checkpoint.iterdir()] if checkpoint.is_dir() else []
    for patterns in _NEEDED:
        if not any(Path(name).match(pattern) for name in names for pattern in patterns):
            return f"there is no {patterns[0]}"
    return None


def damaged(folder: Path) -> str | None:
    """The name of the first truncated or unreadable file of a model folder or checkpoint; None if there is none.

    Only reads headers and directories of files, which is fast but does not detect changed bytes inside a file.
    """
    return next((path.name for path in sorted(folder.rglob("*")) if path.is_file() and not _is_readable(path)), None)


def damaged_model(folder: Path) -> str | None:
    """What is wrong with the files of a model folder, in words; None if nothing is."""
    try:
        read_checkpoint(folder)
    except MergeError as error:
        return str(error)
    return damaged(folder)


def _is_readable(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix in (".pt", ".pth", ".bin"):
            # torch.save writes zip files, which have their directory at the end.
            zipfile.ZipFile(path).close()
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True
