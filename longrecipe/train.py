"""Training: stages run by transformers.Trainer that resume where they were killed."""

import json
import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from longrecipe.attention import check_skipped_positions
from longrecipe.models import autocast_dtype, load
from longrecipe.paths import write_text
from longrecipe.samples import Collator, tokens_seen

log = logging.getLogger(__name__)


class _Epoch(TrainerCallback):
    """Tell the collator which epoch it draws for, before the loader asks for the epoch's first batch."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch or 0)


class _Bar(TrainerCallback):
    def __init__(self, name: str):
        self.name = name

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc=self.name, leave=False)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.close()


class _Clock(TrainerCallback):
    """Keep the seconds trained so far beside every checkpoint, so that a resumed run counts those before the kill."""

    def __init__(self, before: float):
        self.start = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def on_save(self, args, state, control, **kwargs):
        write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / "seconds.json", str(self.seconds))


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training; learning_rate per optimizer step, batch_size in samples, kl_weight of the
    term that keeps the model near the original one on text within its window (0: none)."""

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
    options: dict = field(default_factory=dict)


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

    def load(self) -> PreTrainedModel:
        """The trained model, from its folder, in evaluation mode."""
        return load(self.folder)


class _Trainer(Trainer):
    """Cross-entropy, plus kl_weight * KL(original || network) on batches of short text."""

    original: PreTrainedModel | None = None
    kl_weight: float = 0.0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # By the rows' own mark: positions tell nothing, a short sample of a long text may lie inside the window.
        is_short = not inputs.pop("long").any()
        loss, out = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.kl_weight and is_short:
            with torch.no_grad():
                wanted = self.original(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits
            # Trainer gives the tokens of all accumulated batches where it averages over them by itself.
            share = 1.0 if num_items_in_batch is None else inputs["labels"][:, 1:].numel() / num_items_in_batch
            loss = loss + self.kl_weight * share * kl_divergence(wanted, out.logits)
        return (loss, out) if return_outputs else loss


def kl_divergence(wanted: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    r"""Mean over tokens of $KL(p || q) = \sum_v p_v (\log p_v - \log q_v)$, in nats.

    Args: wanted, logits of p; logits, those of q; both [..., vocabulary]. Computed in float32.
    """
    p, q = (F.log_softmax(x.float().flatten(0, -2), dim=-1) for x in (wanted, logits))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


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
    `check_skipped_positions` must pass. Args: make_network: builds the model to start from; original: builds the model
    that a stage with a kl_weight above 0 is kept near. Returns a Trained.
    Raises SkippedPositionsError from the guard, and ValueError where folder holds a stage of other settings.
    """
    if len(dataset) < stage.batch_size:
        # Trainer would drop the only batch, train nothing and say that it had finished.
        raise ValueError(
            f"{stage.name}: {len(dataset)} samples do not fill one batch of batch_size = {stage.batch_size}."
        )
    if stage.kl_weight and original is None:
        raise ValueError(f"{stage.name}: kl_weight = {stage.kl_weight} needs the original model to stay near; give it.")
    settings, done = asdict(stage), folder / "stage.json"
    record = json.loads(done.read_text(encoding="utf-8")) if done.is_file() else {"stage": settings}
    if record["stage"] != settings:
        raise ValueError(f"{folder} holds {stage.name} with other settings; delete the folder or use another one.")
    if "losses" in record:
        log.info("%s was finished before: loaded from %s", stage.name, folder)
        numbers = (record[name] for name in ("losses", "seconds", "n_tokens"))
        return Trained(stage.name, folder / "model", *numbers, resumed_from=stage.steps)
    network = make_network()
    if collator.method.positions is not None:
        check_skipped_positions(network)
    checkpoints = folder / "checkpoints"
    checkpoint = latest_checkpoint(checkpoints)
    resumed_from = int(checkpoint.name.split("-")[-1]) if checkpoint else None
    if checkpoint:
        log.info("%s resumed from step %d", stage.name, resumed_from)
    write_text(done, json.dumps(record, indent=1))
    clock = _Clock(_seconds_before(checkpoint))
    if resumed_from == stage.steps:
        # Killed after its last step; Trainer would take one step more.
        network = load(checkpoint)
        history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    else:
        trainer = _trainer(network, dataset, collator, stage, checkpoints, original)
        trainer.add_callback(clock)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        history = trainer.state.log_history
    seconds = clock.seconds
    losses = [entry["loss"] for entry in history if "loss" in entry]
    n_tokens = tokens_seen(dataset, stage.steps, stage.batch_size)
    network.save_pretrained(folder / "model")
    record |= {"losses": losses, "seconds": seconds, "n_tokens": n_tokens}
    write_text(done, json.dumps(record, indent=1))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Trained(stage.name, folder / "model", losses, seconds, n_tokens, resumed_from)


def _seconds_before(checkpoint: Path | None) -> float:
    path = checkpoint / "seconds.json" if checkpoint else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else 0.0


def latest_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in folder; one cut off while it was written is passed over.

    Trainer writes trainer_state.json last, so a checkpoint whose state file reads well is whole.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[-1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            log.warning("%s is not whole; passed over", checkpoint)
            continue
        return checkpoint
    return None


def _trainer(
    network: PreTrainedModel,
    dataset: Dataset,
    collator: Collator,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None,
) -> Trainer:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup_steps,
        adam_beta2=0.98,
        bf16=autocast_dtype(stage.precision, device) == torch.bfloat16,
        use_cpu=device == "cpu",
        seed=stage.seed,
        # The set is stored in random order; this keeps batches of one length together.
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=device == "cuda",
        save_steps=stage.save_steps,
        save_total_limit=2,
        logging_steps=1,
        disable_tqdm=True,
        report_to="none",
        **stage.options,
    )
    callbacks = [_Epoch(collator), _Bar(stage.name)]
    trainer = _Trainer(
        model=network, args=arguments, train_dataset=dataset, data_collator=collator, callbacks=callbacks
    )
    if stage.kl_weight:
        trainer.kl_weight, trainer.original = stage.kl_weight, original().to(device).requires_grad_(False)
    # Without a bar of its own Trainer prints every log line.
    trainer.remove_callback(PrinterCallback)
    return trainer
