"""Training with weights split among processes: FSDP2 and ZeRO-3, as `accelerate launch` sets them up."""

import os
from typing import Any

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType
from transformers import Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from longrecipe.settings.memory import Setup


def fsdp_is_asked() -> bool:
    """Whether `accelerate launch` asks for FSDP; accelerate itself decides, and passes it over on CPUs."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def shards_asked(n_processes: int) -> int:
    """Among how many processes `accelerate launch` splits the weights: all of them with FSDP or ZeRO-3, else 1."""
    zero = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    zero3 = zero and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3"
    return n_processes if fsdp_is_asked() or zero3 else 1


def fsdp_options(setup: Setup) -> dict[str, Any]:
    """The TrainingArguments that FSDP2 needs beside those of the setup; none without FSDP."""
    if not fsdp_is_asked():
        return {}
    # Gradients of every batch are reduced at once: kept for the end of the step they would lie unsharded on each GPU.
    options = {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    # Under mixed precision accelerate trains a float32 copy, whatever the weights are.
    return options if setup.fp32_weights else options | {"bf16": False}


def configure_sharding(trainer: Trainer, setup: Setup, n_processes: int) -> None:
    """Check that a setup goes with the sharding in force, and set FSDP2's dtypes; call it before train().

    Gradients are reduced in float32, and the loss leaves the model in float32: accelerate would round it to bfloat16.
    Raises ValueError where Setup.shards is not what is there (all processes with FSDP2 or ZeRO-3, else 1), and for an
    accumulation, optimizer, precision or kind of checkpoint that does not go with it.
    """
    if setup.fp32_accumulation and (n_processes > 1 or is_sharded(trainer)):
        # Its hooks take a batch's gradients away before DDP or ZeRO has summed them; FSDP2's shards never call them.
        raise ValueError(
            f"fp32_accumulation = True with {n_processes} processes: gradients would not be summed over them. Set it "
            "to False; with fp32_weights gradients are float32 all the same."
        )
    shards = n_processes if is_sharded(trainer) else 1
    if setup.shards != shards:
        cure = "give accelerate launch --config_file params/accelerate/fsdp2.yaml or zero3.yaml, on GPUs"
        raise ValueError(
            f"shards = {setup.shards}, but the weights are split among {shards} of {n_processes} processes: set "
            f"shards to {shards}, or {cure} with --num_processes {setup.shards}."
        )
    if trainer.is_deepspeed_enabled:
        if not setup.fp32_weights or setup.optimizer != "adamw_fp32":
            raise ValueError(
                f"optimizer = {setup.optimizer!r} with fp32_weights = {setup.fp32_weights}: DeepSpeed keeps a float32 "
                "copy of the weights and updates that. Set adamw_fp32 with fp32_weights, or shard with fsdp2.yaml."
            )
        if not trainer.accelerator.state.deepspeed_plugin.zero3_save_16bit_model and is_sharded(trainer):
            raise ValueError("zero3_save_16bit_model = False: the trained weights could not be written; set it true.")
    if trainer.is_fsdp_enabled:
        _configure_fsdp(trainer, setup)


def _configure_fsdp(trainer: Trainer, setup: Setup) -> None:
    plugin, mixed = trainer.accelerator.state.fsdp_plugin, trainer.accelerator.mixed_precision
    if plugin.fsdp_version != 2:
        raise ValueError(f"fsdp_version = {plugin.fsdp_version}: set it to 2, as params/accelerate/fsdp2.yaml does.")
    if plugin.state_dict_type != StateDictType.FULL_STATE_DICT:
        raise ValueError(
            f"fsdp_state_dict_type = {plugin.state_dict_type.name}: checkpoints are also read by processes that do not "
            "shard; set it to FULL_STATE_DICT."
        )
    if mixed != "no" and not setup.fp32_weights:
        raise ValueError(
            f"mixed_precision = {mixed!r} of accelerate would turn bfloat16 weights to float32: set it to 'no' in the "
            "file given to accelerate launch, or set fp32_weights."
        )
    compute = torch.bfloat16 if mixed == "bf16" else None
    plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)


def is_sharded(trainer: Trainer) -> bool:
    """Whether this Trainer splits the weights among its processes, which accelerate knows once it is made."""
    if trainer.is_deepspeed_enabled:
        return trainer.accelerator.state.deepspeed_plugin.zero_stage == 3
    return trainer.is_fsdp_enabled


def whole_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The trained weights in one piece, in the first process (elsewhere perhaps none); all processes must call it."""
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    # Gathered one by one, tied weights are no longer one tensor, and would be written twice.
    for name in trainer.accelerator.unwrap_model(trainer.model_wrapped).all_tied_weights_keys:
        weights.pop(name, None)
    # While its configuration lives, whatever transformers load next comes partitioned, by all processes or never.
    unset_hf_deepspeed_config()
    return weights
