"""Training with the weights sharded over several processes: FSDP2 and ZeRO-3, as `accelerate launch` sets them up."""

import os
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from longrecipe.settings.memory import Setup


def fsdp_is_asked() -> bool:
    """Whether `accelerate launch` asks for FSDP. accelerate decides in the end: it ignores FSDP on CPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shards_asked(n_processes: int) -> int:
    """The number of processes over which `accelerate launch` shards the weights: all with FSDP or ZeRO-3, else 1."""
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    zero3 = zero and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return n_processes if fsdp_is_asked() or zero3 else 1


def fsdp_options(setup: Setup) -> dict[str, Any]:
    """The TrainingArguments that FSDP2 needs in addition to those of the setup; empty without FSDP."""
    if not fsdp_is_asked():
        return {}
    # Reduce the gradients after every batch: until the end of the step, each GPU would hold them unsharded.
    options = {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    # With mixed precision accelerate trains a float32 copy, even of bfloat16 weights.
    return options if setup.fp32_weights else options | {"bf16": False}


def configure_sharding(trainer: Trainer, setup: Setup, n_processes: int) -> None:
    """Check that a setup matches the active sharding, and set the dtypes of FSDP2. Call it before train().

    Gradients are reduced in float32, and the model returns its loss in float32, which accelerate would round to
    bfloat16.

    Raises ValueError if Setup.shards is not the actual number (all processes with FSDP2 or ZeRO-3, else 1), or if the
    accumulation, optimizer, precision or type of checkpoint does not work with the sharding.
    """
    if setup.fp32_accumulation and (n_processes > 1 or is_sharded(trainer)):
        # Its hooks remove the gradients of a batch before DDP or ZeRO sums them, and FSDP2's shards never call hooks.
        raise ValueError(
            f"fp32_accumulation = True with {n_processes} processes: gradients would not be summed over the processes. "
            "Set it to False; with fp32_weights the gradients are float32 anyway."
        )
    shards = n_processes if is_sharded(trainer) else 1
    if setup.shards != shards:
        fix = "run accelerate launch --config_file params/accelerate/fsdp2.yaml (or zero3.yaml) on GPUs"
        raise ValueError(
            f"shards = {setup.shards}, but the weights are sharded over {shards} of {n_processes} processes: set "
            f"shards to {shards}, or {fix} with --num_processes {setup.shards}."
        )
    if trainer.is_deepspeed_enabled:
        if setup.compile:
            raise ValueError(
                "compile = True with DeepSpeed: its hooks, which gather the weights, are not known to work in compiled "
                "blocks. Set it to False, or use fsdp2.yaml."
            )
        if not setup.fp32_weights or setup.optimizer != "adamw_fp32":
            raise ValueError(
                f"optimizer = {setup.optimizer!r} with fp32_weights = {setup.fp32_weights}: DeepSpeed keeps and "
                "updates a float32 copy of the weights. Set adamw_fp32 with fp32_weights, or use fsdp2.yaml."
            )
        if not trainer.accelerator.state.deepspeed_plugin.zero3_save_16bit_model and is_sharded(trainer):
            raise ValueError("zero3_save_16bit_model = False: the trained weights could not be saved; set it to true.")
    if trainer.is_fsdp_enabled:
        _configure_fsdp(trainer, setup)


def _configure_fsdp(trainer: Trainer, setup: Setup) -> None:
    plugin, mixed = trainer.accelerator.state.fsdp_plugin, trainer.accelerator.mixed_precision
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_version = {plugin.fsdp_version}: set it to 2, as params/accelerate/fsdp2.yaml does.")
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            f"fsdp_state_dict_type = {plugin.state_dict_type.name}: processes without sharding "
            "could not read the checkpoints; set it to FULL_STATE_DICT."
        )
    if mixed != "no" and not setup.fp32_weights:
        raise ValueError(
            f"mixed_precision = {mixed!r} of accelerate would convert bfloat16 weights to float32: set it to 'no' in "
            "the file given to accelerate launch, or set fp32_weights."
        )
    compute = torch.bfloat16 if mixed == "bf16" else None
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)


def is_sharded(trainer: Trainer) -> bool:
    """Whether this Trainer shards the weights over its processes; accelerate knows it once the Trainer exists."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return trainer.is_fsdp_enabled


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The complete trained weights in the first process; other processes may get none of them. All must call it."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    # Tied weights were gathered as two tensors, and would be saved twice.
    for name in trainer.accelerator.unwrap_model(trainer.model_wrapped).all_tied_weights_keys:
        weights.pop(name, None)
    # As long as this configuration exists, transformers shards every model it loads, and waits for all processes.
    unset_hf_deepspeed_config()
    return weights
