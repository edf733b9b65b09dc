"""Training: stages run by transformers.Trainer that resume where they were killed."""

import gc
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from longrecipe.attention import check_skipped_positions
from longrecipe.cost import Setup
from longrecipe.files import write_text
from longrecipe.formats import tidy
from longrecipe.models import load
from longrecipe.processes import is_main, n_processes
from longrecipe.samples import Collator, tokens_seen
from longrecipe.train.savings import check_installed
from longrecipe.train.sharding import whole_weights
from longrecipe.train.trainer import Clock, n_readers, stage_trainer

log = logging.getLogger(__name__)
# Mixed precision in full: what small models are trained with.
PLAIN = Setup(optimizer="adamw_fp32", fp32_weights=True, checkpointing=False, fused_loss=False)


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training; learning_rate per optimizer step, batch_size in samples, kl_weight of the
    term that keeps the model near the original one on text within its window (0: none).

    A step's samples are read in `accumulation` batches of equal size; setup: how memory is spent (see `cost.Setup`).
    Raises ValueError if batch_size is no multiple of accumulation, and for a kl_weight with a fused loss.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "linear"
    warmup_steps: int = 0
    save_steps: int = 10
    seed: int = 0
    precision: str = "auto"
    kl_weight: float = 0.0
    accumulation: int = 1
    setup: Setup = PLAIN
    options: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.accumulation < 1 or self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size = {self.batch_size} cannot be read in accumulation = {self.accumulation} equal batches."
            )
        if self.setup.fused_loss and self.kl_weight:
            raise ValueError(
                "fused_loss makes no logits, and the term with kl_weight needs them: set one of them to none."
            )

    @property
    def record(self) -> dict:
        """The settings as plain values, without those that only say how the work is split (and change rounding)."""
        plain = asdict(self)
        del plain["accumulation"], plain["setup"]["shards"], plain["setup"]["sequence_parallel"]
        return plain


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
    """Train one stage with transformers.Trainer and keep the result in folder, or take up what is already there.

    A finished stage is loaded, an interrupted one goes on from its last whole checkpoint and ends bit for bit as if it
    had not been interrupted (same machine, same thread count). Before training with skipped positions the guard
    `check_skipped_positions` must pass, in every process and before weights are sharded. Started by torchrun, several
    processes share each batch, and each sample if setup.sequence_parallel is above 1: then `check_context_parallel`
    must pass as well. Started by accelerate launch with params/accelerate/*.yaml, they share the weights too.
    Args: make_network: builds the model to start from; original: builds the model
    that a stage with a kl_weight above 0 is kept near. Returns a Trained.
    Raises SkippedPositionsError from the guards, and ValueError if folder holds a stage of other settings.
    """
    if len(dataset) < stage.batch_size:
        # Trainer would drop the only batch, train nothing and say that it had finished.
        raise ValueError(
            f"{stage.name}: {len(dataset)} samples do not fill one batch of batch_size = {stage.batch_size}."
        )
    if stage.kl_weight and original is None:
        raise ValueError(f"{stage.name}: kl_weight = {stage.kl_weight} needs the original model to stay near; give it.")
    settings, done = stage.record, folder / "stage.json"
    record = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {"stage": settings}
    if record["stage"] != settings:
        raise ValueError(f"{folder} holds {stage.name} with other settings; delete the folder or use another one.")
    if "losses" in record:
        log.info("%s was finished before: loaded from %s", stage.name, folder)
        numbers = (record[name] for name in ("losses", "seconds", "n_tokens"))
        return Trained(stage.name, folder / "model", *numbers, resumed_from=stage.steps)
    check_installed(stage.setup)
    readers = n_readers(stage.setup)
    if stage.batch_size % (stage.accumulation * readers):
        shared = f" groups of {stage.setup.sequence_parallel}" if readers < n_processes() else ""
        raise ValueError(
            f"{stage.name}: batch_size = {stage.batch_size} does not split among {readers}{shared} processes with "
            f"accumulation = {stage.accumulation}."
        )
    network = make_network()
    # Trainer turns it off for checkpointing, which is no property of the trained model.
    use_cache = getattr(network.config, "use_cache", None)
    if collator.method.positions is not None:
        check_skipped_positions(network)
    checkpoints = folder / "checkpoints"
    checkpoint = latest_checkpoint(checkpoints)
    resumed_from = int(checkpoint.name.split("-")[-1]) if checkpoint else None
    if checkpoint:
        log.info("%s resumed from step %d", stage.name, resumed_from)
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
        trainer.add_callback(clock)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history = trainer.state.log_history
    seconds = clock.seconds
    losses = [entry["loss"] for entry in history if "loss" in entry]
    n_tokens = tokens_seen(dataset, stage.steps, stage.batch_size)
    # Gathered by all processes, written by one.
    weights = whole_weights(trainer) if trainer else None
    if is_main():
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


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in folder; one cut off while it was written does not count.

    Trainer writes trainer_state.json last, so a checkpoint whose state file reads well is whole.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            log.warning("%s is not whole and is not used", checkpoint)
            continue
        return checkpoint
    return None
