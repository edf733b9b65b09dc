"""The Trainer of a stage: its loss, its callbacks and its arguments."""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from longrecipe.data.samples import SKIPPED, WEIGHTS, Collator
from longrecipe.models.loading import autocast_dtype, device_kind
from longrecipe.settings.memory import Setup
from longrecipe.system.files import write_text
from longrecipe.system.processes import is_main, n_processes
from longrecipe.train.accumulation import Float32Gradients
from longrecipe.train.checkpoints import SHARD_SIZE
from longrecipe.train.divergence import StopAtNonFinite
from longrecipe.train.loss import weigh_loss
from longrecipe.train.low_bit import without_zero
from longrecipe.train.options import trainer_options
from longrecipe.train.savings import compiled_blocks, save_memory
from longrecipe.train.sequence_parallel import SplitCollator, check_splittable, make_context, reading_order
from longrecipe.train.sequence_parallel_check import SplitAttention
from longrecipe.train.settings import Stage
from longrecipe.train.sharding import configure_sharding, fsdp_options
from longrecipe.train.trackers import PROJECT


def n_readers(setup: Setup) -> int:
    """The number of processes that read different samples: one in each group that shares a sample.

    Raises ValueError if the number of processes is not a multiple of sequence_parallel.
    """
    parts, count = setup.sequence_parallel, n_processes()
    if count % parts:
        many = parts if count < parts else count // parts * parts
        raise ValueError(
            f"sequence_parallel = {parts} needs a multiple of {parts} processes, but {count} are running: start with "
            f"torchrun --nproc_per_node {many} (or accelerate launch --num_processes {many}), or set it to 1."
        )
    return count // parts


class _Epoch(TrainerCallback):
    """Set the epoch of the collator, before the data loader asks for the first batch of the epoch."""

    def __init__(self, collator: Collator):
        self.collator = collator

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.collator.epoch = int(state.epoch or 0)


class Bar(TrainerCallback):
    """A progress bar of optimizer steps. Trainer reports no failures to callbacks, so the caller must call close."""

    def __init__(self, name: str):
        self.name, self.bar = name, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = tqdm(
            total=state.max_steps, initial=state.global_step, desc=self.name, leave=False, disable=not is_main()
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update()

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Remove the bar, so that the next message starts on a new line."""
        if self.bar is not None:
            self.bar.close()


class Clock(TrainerCallback):
    """Save the training time so far with every checkpoint, so that a resumed run includes the time before."""

    def __init__(self, before: float):
        self.start = time.perf_counter() - before

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def on_save(self, args, state, control, **kwargs):
        # Only one process may write the file, as it is moved into place.
        if is_main():
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / "seconds.json", str(self.seconds))


class KeepWeights(TrainerCallback):
    """Save the weights after some steps, by step the folder to save to; the weights must not be sharded.

    This happens before the checkpoint of the same step, so a run that resumes after a step has its weights.
    """

    def __init__(self, network: PreTrainedModel, folders: Mapping[int, Path]):
        self.network, self.folders = network, folders

    def on_step_end(self, args, state, control, **kwargs):
        if is_main() and state.global_step in self.folders:
            self.network.save_pretrained(self.folders[state.global_step], max_shard_size=SHARD_SIZE)


class StageTrainer(Trainer):
    r"""A Trainer whose loss is cross-entropy, with two more terms on batches of short text:

    $$L = \frac{1}{N} \sum_t w_t \ell_t + a\,KL(p^{orig} || p) + b\,(1 - \cos(h^{orig}, h^{skip})),$$

    a = kl_weight, b = skip_weight, both terms are means over tokens; w are the loss_weights of the samples, 1 without
    them (see `loss.weighted_cross_entropy`). h are last hidden states: those of the original model at plain positions
    and of the model at skipped ones, the short-to-long term of LongReD (Dong et al. 2025, arXiv 2502.07365).

    With fp32_accumulation, the gradients of the batches of a step are summed in float32. With compile, the blocks are
    compiled while it trains.
    """

    def __init__(
        self,
        *args: Any,
        original: PreTrainedModel | None = None,
        kl_weight: float = 0.0,
        skip_weight: float = 0.0,
        fp32_accumulation: bool = False,
        compile: bool = False,
        **options: Any,
    ):
        super().__init__(*args, **options)
        if self.accelerator.ddp_handler is not None:
            # Otherwise DDP keeps a second copy of all gradients: 16 GB for 8B parameters.
            self.accelerator.ddp_handler.gradient_as_bucket_view = True
        self.kl_weight, self.skip_weight = kl_weight, skip_weight
        self.original = None if original is None else original.to(self.args.device).requires_grad_(False)
        self.gradients = Float32Gradients(self.model) if fp32_accumulation else None
        self.compile = compile

    @staticmethod
    def get_optimizer_cls_and_kwargs(args, model=None):
        optimizer, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return without_zero(optimizer), options

    def train(self, *args, **kwargs):
        # Later passes have other shapes, which would be compiled again.
        with compiled_blocks(self.model) if self.compile else nullcontext():
            return super().train(*args, **kwargs)

    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        if self.gradients and self.accelerator.sync_gradients:
            # Before clipping and the optimizer step.
            self.gradients.restore()
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # Not from the positions: a sample of a long text may have small positions too.
        is_short, split = not inputs.pop("long").any(), inputs.pop("n_tokens", None)
        skipped = inputs.pop(SKIPPED, None)
        loss, out = super().compute_loss(model, inputs, True, num_items_in_batch)
        if is_short and (self.kl_weight or self.skip_weight):
            given = {k: v for k, v in inputs.items() if k not in ("labels", "shift_labels", WEIGHTS)}
            with torch.no_grad():
                near = self.original(**given, use_cache=False, output_hidden_states=self.skip_weight > 0)
                wanted, logits = near.logits, out.logits
            # If given, num_items_in_batch counts the tokens of all accumulated batches; the loss is their average.
            count = inputs["labels"][:, 1:].numel() * n_processes()
            if split is not None:
                # The mean of a part is over its own tokens without padding, and is weighted by their number.
                kept, n_tokens = inputs["attention_mask"].bool(), split[0]
                wanted, logits = wanted[kept], logits[kept]
                count = kept.sum() * (n_tokens - 1) / n_tokens * n_processes()
            share = 1.0 if num_items_in_batch is None else count / num_items_in_batch
            if self.kl_weight:
                loss = loss + self.kl_weight * share * kl_divergence(wanted, logits)
            if self.skip_weight:
                # Through the model's own forward, as its wrappers (DDP, FSDP) gather and reduce there.
                more = {"use_cache": False, "output_hidden_states": True, "logits_to_keep": 1}
                far = model(**given | {"position_ids": skipped}, **more)
                alike = F.cosine_similarity(near.hidden_states[-1].float(), far.hidden_states[-1].float(), dim=-1)
                loss = loss + self.skip_weight * share * (1 - alike.mean())
        return (loss, out) if return_outputs else loss


def kl_divergence(wanted: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    r"""Mean over tokens of $KL(p || q) = \sum_v p_v (\log p_v - \log q_v)$, in nats.

    Args: wanted: logits of p; logits: those of q; both [..., vocabulary]. Computed in float32.
    """
    p, q = (F.log_softmax(x.float().flatten(0, -2), dim=-1) for x in (wanted, logits))
    return F.kl_div(q, p, reduction="batchmean", log_target=True)


def stage_trainer(
    network: PreTrainedModel,
    dataset: Dataset,
    collator: Collator,
    *,
    stage: Stage,
    folder: Path,
    original: Callable[[], PreTrainedModel] | None = None,
) -> StageTrainer:
    """The Trainer of a stage. Changes the network to save memory, as the setup of the stage says.

    The original model is not sharded: with a kl_weight or skip_weight every process holds a full copy, 2 bytes per
    parameter in bfloat16.

    Raises ValueError if the setup does not match the processes and their sharding, or if the model does not support
    its sequence_parallel.
    """
    parts = stage.setup.sequence_parallel
    if parts > 1:
        check_splittable(network)
    save_memory(network, stage.setup)
    if WEIGHTS in dataset.column_names and not stage.setup.fused_loss:
        weigh_loss(network)
    # Before the arguments: if they ask for ZeRO-3, transformers shards every model it loads from then on.
    base = original() if stage.needs_original else None
    device = device_kind()
    options = {"bf16": autocast_dtype(stage.precision, device) == torch.bfloat16}
    options |= fsdp_options(stage.setup) | trainer_options(stage.setup) | stage.options
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=stage.steps,
        per_device_train_batch_size=stage.batch_size // stage.accumulation // n_readers(stage.setup),
        gradient_accumulation_steps=stage.accumulation,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.schedule,
        warmup_steps=stage.warmup_steps,
        adam_beta2=0.98,
        use_cpu=device == "cpu",
        seed=stage.seed,
        # The dataset is stored in random order; this keeps samples of one length in one batch.
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataloader_drop_last=True,
        dataloader_pin_memory=device == "cuda",
        save_steps=stage.save_steps,
        save_total_limit=2,
        logging_steps=1,
        # If True, a NaN loss is logged as 0.
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=stage.report_to,
        run_name=stage.run_name,
        project=PROJECT,
        **options,
    )
    callbacks = [_Epoch(collator), StopAtNonFinite(stage)]
    # After the arguments, which set up the process group.
    context = make_context(parts) if parts > 1 else None
    if context:
        order = reading_order(len(dataset), arguments.per_device_train_batch_size, parts)
        dataset, collator = dataset.select(order), SplitCollator(collator, context)
    trainer = StageTrainer(
        model=network,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        callbacks=callbacks,
        original=base,
        kl_weight=stage.kl_weight,
        skip_weight=stage.skip_weight,
        fp32_accumulation=stage.setup.fp32_accumulation,
        compile=stage.setup.compile,
    )
    configure_sharding(trainer, stage.setup, n_processes())
    if context:
        if not (arguments.average_tokens_across_devices and trainer.model_accepts_loss_kwargs):
            raise ValueError(
                "sequence_parallel needs a loss averaged over the tokens of all parts: leave "
                "average_tokens_across_devices on, and use a model whose forward accepts num_items_in_batch."
            )
        trainer.add_callback(SplitAttention(context, [each for each in (network, base) if each is not None]))
    # With disable_tqdm, Trainer adds a callback that prints every log entry.
    trainer.remove_callback(PrinterCallback)
    return trainer
