"""Training: stages run by transformers.Trainer that resume where they were killed."""

import gc
import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from longrecipe.data.samples import Collator, tokens_seen
from longrecipe.models.formats import tidy
from longrecipe.models.loading import load
from longrecipe.system.files import locked, read_json, write_text
from longrecipe.system.processes import is_main, n_processes
from longrecipe.train.checkpoints import damaged_model, latest_checkpoint
from longrecipe.train.divergence import check_trained, first_not_finite, warn_if_worse
from longrecipe.train.guard import check_skipped_positions
from longrecipe.train.options import check_installed
from longrecipe.train.settings import Stage
from longrecipe.train.sharding import whole_weights
from longrecipe.train.trainer import Bar, Clock, n_readers, stage_trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished stage: its model folder, loss by step, seconds, tokens, and the step it was resumed from, if any.

    resumed_from is None for a run in one go, a step for one that a kill had stopped, and equals the number of steps for
    a stage that had been finished before. seconds leave out what a kill made undone.
    """

    name: str
    folder: Path
    losses: list[float]
    seconds: float
    n_tokens: int
    resumed_from: int | None

    def load(self, dtype: torch.dtype = torch.float32, attention: str = "sdpa") -> PreTrainedModel:
        """The trained model, from its folder, in evaluation mode."""
        return load(self.folder, dtype=dtype, attention=attention)


def run_stage(
    make_network: Callable[[], PreTrainedModel],
    dataset: Dataset,
    collator: Collator,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None = None,
) -> Trained:
    """Train one stage with transformers.Trainer and keep the result in folder, or load what is already there.

    A finished stage is loaded, an interrupted one resumes from its last whole checkpoint and ends bit for bit as if it
    had not been interrupted (same machine, same thread count). If another process trains the stage in this folder, this
    one waits until it has finished. Before training with skipped positions the guard `check_skipped_positions` must
    pass, in every process and before weights are sharded. Started by torchrun, several processes share each batch, and
    each sample if setup.sequence_parallel is above 1: then `check_context_parallel` must pass as well. Started by
    accelerate launch with params/accelerate/*.yaml, they share the weights too.
    Args: make_network: builds the model to start from; original: builds the model that a stage with a kl_weight above 0
    is kept near. Returns a Trained.
    Raises SkippedPositionsError from the guards; DivergedError at the first loss or gradient that is not finite, and
    the stage is not finished then; ValueError if folder holds a stage of other settings or damaged files.
    """
    _check(stage, dataset, original)
    with _alone(folder, stage):
        return _finished(folder, stage) or _trained(make_network, dataset, collator, stage, folder, original)


def _check(stage: Stage, dataset: Dataset, original: Callable[[], PreTrainedModel] | None) -> None:
    if len(dataset) < stage.batch_size:
        # Trainer would drop the only batch, train nothing and say that it had finished.
        raise ValueError(
            f"{stage.name}: {len(dataset)} samples do not fill one batch of batch_size = {stage.batch_size}."
        )
    if stage.kl_weight and original is None:
        raise ValueError(f"{stage.name}: kl_weight = {stage.kl_weight} needs the original model to stay near; give it.")


@contextmanager
def _alone(folder: Path, stage: Stage) -> Iterator[None]:
    if not is_main():
        yield
        return
    # Among several processes only the first would wait, and the others would run into the timeout of their first
    # common operation.
    with locked(folder, f"trains the stage {stage.name}", wait=n_processes() == 1):
        yield


def _finished(folder: Path, stage: Stage) -> Trained | None:
    """The stage that a folder holds, None if it is not finished."""
    record = _record(folder, stage)
    if record["stage"] != stage.record:
        raise ValueError(f"{folder} holds {stage.name} with other settings; delete the folder or use another one.")
    if "losses" not in record:
        return None
    if problem := damaged_model(folder / "model"):
        raise ValueError(
            f"{folder / 'model'} is damaged ({problem}): delete {folder}, and the same command trains the stage again."
        )
    if is_main():
        # A kill may have come before the last of them were removed.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    log.info("%s was finished before: loaded from %s", stage.name, folder)
    numbers = (record[name] for name in ("losses", "seconds", "n_tokens"))
    return Trained(stage.name, folder / "model", *numbers, resumed_from=stage.steps)


def _record(folder: Path, stage: Stage) -> dict:
    path, begun = folder / "stage.json", {"stage": stage.record}
    if not path.is_file():
        return begun
    try:
        record = read_json(path, f"delete {folder}, and the same command trains the stage again")
        if not isinstance(record, dict) or "stage" not in record:
            raise ValueError(f"{path} is no record of a stage; delete {folder} to train it again.")
        return record
    except ValueError as error:
        if latest_checkpoint(folder / "checkpoints") is None:
            raise
        log.warning("%s The stage resumes from its checkpoint.", error)
        return begun


def _trained(
    make_network: Callable[[], PreTrainedModel],
    dataset: Dataset,
    collator: Collator,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None,
) -> Trained:
    """Train a stage that is not finished, from its last whole checkpoint if there is one."""
    check_installed(stage.setup)
    readers = n_readers(stage.setup)
    if stage.batch_size % (stage.accumulation * readers):
        shared = f" groups of {stage.setup.sequence_parallel}" if readers < n_processes() else ""
        raise ValueError(
            f"{stage.name}: batch_size = {stage.batch_size} does not split among {readers}{shared} processes with "
            f"accumulation = {stage.accumulation}."
        )
    network = make_network()
    if name := first_not_finite(network.named_parameters()):
        raise ValueError(f"{stage.name} starts from a model whose {name} has NaN or infinite values: use another one.")
    # Trainer turns it off for checkpointing, which is no property of the trained model.
    use_cache = getattr(network.config, "use_cache", None)
    skips = collator.method.positions is not None
    if skips:
        check_skipped_positions(network)
    checkpoints, done = folder / "checkpoints", folder / "stage.json"
    checkpoint = latest_checkpoint(checkpoints)
    resumed_from = int(checkpoint.name.split("-")[-1]) if checkpoint else None
    if checkpoint:
        log.info("%s resumed from step %d", stage.name, resumed_from)
    record = {"stage": stage.record}
    if is_main():
        write_text(done, json.dumps(record, indent=1))
    clock = Clock(_seconds_before(checkpoint))
    trainer = None
    if resumed_from == stage.steps:
        # Killed after its last step; Trainer would take one step more.
        network = load(checkpoint, dtype=network.dtype)
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    else:
        trainer = stage_trainer(network, dataset, collator, stage, checkpoints, original)
        bar = Bar(stage.name)
        for callback in (clock, bar):
            trainer.add_callback(callback)
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            bar.close()
        history = trainer.state.log_history
    seconds = clock.seconds
    losses = [entry["loss"] for entry in history if "loss" in entry]
    n_tokens = tokens_seen(dataset, stage.steps, stage.batch_size)
    # Gathered by all processes, written by one.
    weights = whole_weights(trainer) if trainer else None
    if is_main():
        # Several processes may hold the model in parts.
        whole = network if skips and n_processes() == 1 else None
        check_trained(whole, (weights or network.state_dict()).items(), stage)
        warn_if_worse(losses, stage)
        network.save_pretrained(folder / "model", state_dict=weights)
        tidy(folder / "model", **({} if use_cache is None else {"use_cache": use_cache}))
        record |= {"losses": losses, "seconds": seconds, "n_tokens": n_tokens}
        write_text(done, json.dumps(record, indent=1))
        shutil.rmtree(checkpoints, ignore_errors=True)
    if trainer:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.free_memory()
    # What has been trained is on disk now; on a GPU the next stage needs its room.
    del trainer, network, weights
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return Trained(stage.name, folder / "model", losses, seconds, n_tokens, resumed_from)


def _seconds_before(checkpoint: Path | None) -> float:
    path = checkpoint / "seconds.json" if checkpoint else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else 0.0
