"""Checkpoints of a stage: which of them are whole, and the last one that a run can resume from."""

import json
import logging
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from longrecipe.models.checkpoint import MergeError, read_checkpoint
from longrecipe.system.processes import is_main

log = logging.getLogger(__name__)
# What a checkpoint needs to resume exactly, each by one of several names: on one process or DDP, FSDP2, ZeRO-3.
_NEEDED = (
    ("model*.safetensors", "pytorch_model*", "global_step*"),
    ("optimizer*", "global_step*"),
    ("scheduler.pt",),
    ("rng_state*",),
    # Trainer writes this one last.
    ("trainer_state.json",),
)


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in folder, None if there is none. The main process removes later ones, which are
    damaged or were cut off while they were written, with a warning.
    """
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        problem = missing(checkpoint) or damaged(checkpoint)
        if problem is None:
            return checkpoint
        log.warning("%s is not whole (%s) and is not used", checkpoint, problem)
        if is_main():
            shutil.rmtree(checkpoint, ignore_errors=True)
    return None


def missing(checkpoint: Path) -> str | None:
    """What a checkpoint lacks, by name; None if it has every file that is needed to resume exactly."""
    # Another process may be removing it.
    names = [path.name for path in checkpoint.iterdir()] if checkpoint.is_dir() else []
    for patterns in _NEEDED:
        if not any(Path(name).match(pattern) for name in names for pattern in patterns):
            return f"there is no {patterns[0]}"
    return None


def damaged(folder: Path) -> str | None:
    """The first file of a model folder or checkpoint that is cut off or unreadable, by name; None if all are whole.

    Reads headers and directories only, so that it takes no time: bytes that changed inside a file are not noticed.
    """
    return next((path.name for path in sorted(folder.rglob("*")) if path.is_file() and not _is_whole(path)), None)


def damaged_model(folder: Path) -> str | None:
    """What is wrong with the files of a model folder, in words; None if it has all that a model needs."""
    try:
        read_checkpoint(folder)
    except MergeError as error:
        return str(error)
    return damaged(folder)


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix in (".pt", ".pth", ".bin"):
            # torch.save writes zip files, whose directory is at the end.
            zipfile.ZipFile(path).close()
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, SafetensorError, zipfile.BadZipFile):
        return False
    return True
