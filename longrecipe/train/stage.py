"""Run one training stage with transformers.Trainer; an interrupted stage resumes from its last checkpoint."""

import gc
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from longrecipe.data.samples import Collator, tokens_seen
from longrecipe.models.formats import tidy
from longrecipe.models.loading import load
from longrecipe.system.files import locked, read_json, write_text
from longrecipe.system.processes import is_main, local_rank, n_processes
from longrecipe.train.checkpoints import SHARD_SIZE, damaged_model, latest_checkpoint
from longrecipe.train.divergence import check_trained, first_not_finite, warn_if_worse
from longrecipe.train.guard import check_skipped_positions
from longrecipe.train.options import check_installed
from longrecipe.train.settings import Stage
from longrecipe.train.sharding import whole_weights
from longrecipe.train.trackers import check_tracker, tracked
from longrecipe.train.trainer import Bar, Clock, KeepWeights, StageTrainer, n_readers, stage_trainer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A finished stage: its model folder, the loss of each step, its seconds and tokens, and where it was resumed.

    resumed_from is None if the stage ran without interruption, else the step of the checkpoint it resumed from; it is
    the number of steps if the stage was already finished. seconds exclude steps that an interruption made void.
    """

    name: str
    folder: Path
    losses: list[float]
    seconds: float
    n_tokens: int
    resumed_from: int | None

    def load(
        self, dtype: torch.dtype = torch.float32, attention: str = "sdpa", *, step: int | None = None
    ) -> PreTrainedModel:
        """The trained model, from its folder, in evaluation mode.

        step: one of the `keep_steps` of `run_stage`; None or the last step give the finished model. Raises
        FileNotFoundError for a step that was not kept.
        """
        is_last = step is None or step == len(self.losses)
        return load(self.folder if is_last else step_folder(self.folder.parent, step), dtype=dtype, attention=attention)


def run_stage(
    make_network: Callable[[], PreTrainedModel],
    dataset: Dataset,
    collator: Collator,
    *,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None = None,
    keep_steps: Collection[int] = (),
) -> Trained:
    """Train one stage with transformers.Trainer and save the result in folder, or load a result that is already there.

    A finished stage is loaded. An interrupted stage resumes from its last complete checkpoint; on the same machine with
    the same number of threads it ends bit for bit like an uninterrupted one. On a GPU it may differ slightly: on an
    H100, losses differed by up to 0.0002 (`longrecipe cost gpu`). If another process trains the stage in this folder,
    this one waits for it.

    Before training with skipped positions, `check_skipped_positions` must pass, in every process and before weights are
    sharded. Under torchrun, several processes share each batch. If setup.sequence_parallel is above 1 they also share
    each sample, and `check_sequence_parallel` must pass. Under accelerate launch with params/accelerate/*.yaml they
    share the weights too.

    Args: make_network: builds the model to start from; original: builds the model that kl_weight and skip_weight of
    the stage keep it close to; keep_steps: optimizer steps after which a copy of the weights is kept, for
    `Trained.load`. They do not change the training. A folder is for one choice of them, because a finished stage has
    only these copies.

    Raises SkippedPositionsError if a check fails; DivergedError at the first loss or gradient that is not finite, in
    which case the stage does not count as finished; ValueError if the folder holds a stage with other settings or
    damaged files.
    """
    _check_arguments(stage, dataset, collator, original)
    with _locked(folder, stage):
        trained = _finished(folder, stage)
        if trained is None:
            trained = _train(
                make_network, dataset, collator, stage=stage, folder=folder, original=original, keep_steps=keep_steps
            )
            # The weights are on disk now; free the memory for the next stage.
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return trained


def _check_arguments(
    stage: Stage, dataset: Dataset, collator: Collator, original: Callable[[], PreTrainedModel] | None
) -> None:
    if len(dataset) < stage.batch_size:
        # Trainer would drop the only batch and finish without training.
        raise ValueError(
            f"{stage.name}: {len(dataset)} samples do not fill one batch of batch_size = {stage.batch_size}."
        )
    for name in ("kl_weight", "skip_weight"):
        if (value := getattr(stage, name)) and original is None:
            raise ValueError(f"{stage.name}: {name} = {value} needs the original model: pass original.")
    if stage.skip_weight and not collator.skip:
        raise ValueError(f"{stage.name}: skip_weight = {stage.skip_weight} needs a Collator with skip=True.")


@contextmanager
def _locked(folder: Path, stage: Stage) -> Iterator[None]:
    if not is_main():
        yield
        return
    # With several processes only the first would wait, and the others would time out in their first collective.
    with locked(folder, f"trains the stage {stage.name}", wait=n_processes() == 1):
        yield


def _finished(folder: Path, stage: Stage) -> Trained | None:
    """The finished stage in a folder, None if it is not finished."""
    record = _read_record(folder, stage)
    if record["stage"] != stage.record:
        raise ValueError(f"{folder} holds {stage.name} with other settings; delete the folder or use another one.")
    if "losses" not in record:
        return None
    if problem := damaged_model(folder / "model"):
        raise ValueError(
            f"{folder / 'model'} is damaged ({problem}): delete {folder}, and the same command trains the stage again."
        )
    if is_main():
        # Left over if the run was killed while it removed them.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    log.info("%s is already finished: loaded from %s", stage.name, folder)
    numbers = (record[name] for name in ("losses", "seconds", "n_tokens"))
    return Trained(stage.name, folder / "model", *numbers, resumed_from=stage.steps)


def _read_record(folder: Path, stage: Stage) -> dict:
    path, new = folder / "stage.json", {"stage": stage.record}
    if not path.is_file():
        return new
    try:
        record = read_json(path, f"delete {folder}, and the same command trains the stage again")
        if not isinstance(record, dict) or "stage" not in record:
            raise ValueError(f"{path} is not a record of a stage; delete {folder} to train it again.")
        return record
    except ValueError as error:
        if latest_checkpoint(folder / "checkpoints") is None:
            raise
        log.warning("%s The stage resumes from its checkpoint.", error)
        return new


def _write_record(folder: Path, stage: Stage, **results: Any) -> None:
    write_text(folder / "stage.json", json.dumps({"stage": stage.record} | results, indent=1))


def _train(
    make_network: Callable[[], PreTrainedModel],
    dataset: Dataset,
    collator: Collator,
    *,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None,
    keep_steps: Collection[int],
) -> Trained:
    """Train an unfinished stage, from its last complete checkpoint if there is one, and save it."""
    _check_setup(stage)
    network = _checked_network(make_network, collator, stage)
    # Trainer turns it off for activation checkpointing; the saved model should keep its own value.
    use_cache = getattr(network.config, "use_cache", None)
    checkpoint = latest_checkpoint(folder / "checkpoints")
    resumed_from = int(checkpoint.name.split("-")[-1]) if checkpoint else None
    if checkpoint:
        log.info("%s resumes from step %d", stage.name, resumed_from)
    if is_main():
        _write_record(folder, stage)
    clock = Clock(_seconds_before(checkpoint))
    trainer = None
    if resumed_from == stage.steps:
        # Interrupted after its last step; Trainer would take one more.
        network = load(checkpoint, dtype=network.dtype)
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    else:
        with tracked(stage.report_to, stage.run_name):
            trainer = stage_trainer(
                network, dataset, collator, stage=stage, folder=folder / "checkpoints", original=original
            )
            trainer.add_callback(KeepWeights(network, {step: step_folder(folder, step) for step in keep_steps}))
            history = _run(trainer, clock, Bar(stage.name), checkpoint=checkpoint)
    trained = Trained(
        stage.name,
        folder / "model",
        losses=[entry["loss"] for entry in history if "loss" in entry],
        seconds=clock.seconds,
        n_tokens=tokens_seen(dataset, stage.steps, stage.batch_size),
        resumed_from=resumed_from,
    )
    # All processes gather the weights, and the first one saves them.
    weights = whole_weights(trainer) if trainer else None
    if is_main():
        # With several processes the network may be sharded, so it cannot be checked.
        whole = network if _skips(collator) and n_processes() == 1 else None
        check_trained(whole, (weights or network.state_dict()).items(), stage)
        warn_if_worse(trained.losses, stage)
        network.save_pretrained(trained.folder, state_dict=weights, max_shard_size=SHARD_SIZE)
        tidy(trained.folder, **({} if use_cache is None else {"use_cache": use_cache}))
        _write_record(folder, stage, losses=trained.losses, seconds=trained.seconds, n_tokens=trained.n_tokens)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if trainer:
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.free_memory()
    return trained


def _check_setup(stage: Stage) -> None:
    check_installed(stage.setup)
    check_tracker(stage.report_to)
    readers = n_readers(stage.setup)
    if stage.batch_size % (stage.accumulation * readers):
        groups = f" groups of {stage.setup.sequence_parallel}" if readers < n_processes() else ""
        raise ValueError(
            f"{stage.name}: batch_size = {stage.batch_size} does not split among {readers}{groups} processes with "
            f"accumulation = {stage.accumulation}."
        )


def _checked_network(make_network: Callable[[], PreTrainedModel], collator: Collator, stage: Stage) -> PreTrainedModel:
    """The model to start from. Its weights must be finite, and its attention must cross skipped positions."""
    network = _on_gpu(make_network())
    if name := first_not_finite(network.named_parameters()):
        raise ValueError(f"{stage.name} starts from a model whose {name} has NaN or infinite values: use another one.")
    if _skips(collator):
        check_skipped_positions(network)
    return network


def _on_gpu(network: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU of this process, if there is one with room for all its weights; else as it is.

    Trainer would move it later, but the guard runs before, and some attention kernels (flash-attn) need a GPU. A model
    that only fits sharded stays in the host's memory.
    """
    if not torch.cuda.is_available():
        return network
    device = torch.device("cuda", local_rank())
    size = sum(weights.nbytes for weights in network.parameters())
    return network.to(device) if size < torch.cuda.mem_get_info(device)[0] else network


def _skips(collator: Collator) -> bool:
    return collator.method.positions is not None


def _run(trainer: StageTrainer, clock: Clock, bar: Bar, *, checkpoint: Path | None) -> list[dict]:
    """Train to the last step, from a checkpoint if there is one. Returns Trainer's log."""
    trainer.add_callback(clock)
    trainer.add_callback(bar)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        bar.close()
    return trainer.state.log_history


def step_folder(folder: Path, step: int) -> Path:
    """Where a stage in folder keeps its weights after a step."""
    return folder / f"step-{step}"


def _seconds_before(checkpoint: Path | None) -> float:
    path = checkpoint / "seconds.json" if checkpoint else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else 0.0
