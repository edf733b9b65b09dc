"""From how memory is to be spent (`Setup`) to what transformers.Trainer is told."""

import importlib.util
from typing import Any

import torch

from longrecipe.settings.memory import Setup

_OPTIMIZERS = {
    "adamw_fp32": "adamw_torch_fused",
    # The moments take the dtype of the weights.
    "adamw_bf16": "adamw_torch_fused",
    "adamw_8bit": "adamw_torch_8bit",
    "adamw_4bit": "adamw_torch_4bit",
}


def weights_dtype(setup: Setup) -> torch.dtype:
    """The dtype to load the weights in: float32 where a float32 copy is trained, else bfloat16."""
    return torch.float32 if setup.fp32_weights else torch.bfloat16


def attention_of(name: str) -> str:
    """transformers' name of an attention implementation: for auto flash-attn where it is installed and there is a GPU,
    else torch's own (sdpa), which has a flash kernel too."""
    if name != "auto":
        return name
    has_flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return "flash_attention_2" if has_flash else "sdpa"


def trainer_options(setup: Setup) -> dict[str, Any]:
    """The TrainingArguments of a setup: optimizer, checkpointing and offload.

    bfloat16 weights are updated with stochastic rounding, which torchao's optimizers of 8 and 4 bits have: at a
    learning rate of 5e-5 most updates are smaller than half of bfloat16's last digit, and would be rounded away.
    """
    options: dict[str, Any] = {"optim": _OPTIMIZERS[setup.optimizer]}
    if setup.optimizer in ("adamw_8bit", "adamw_4bit"):
        options["optim_args"] = f"bf16_stochastic_round={not setup.fp32_weights}"
    if setup.checkpointing:
        kept = {"use_reentrant": False} | ({"offload": True} if setup.offload_activations else {})
        options |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": kept}
    return options


def check_installed(setup: Setup) -> None:
    """Raise ValueError where a setup needs a package that is not installed, naming it, or where its parts go ill."""
    if setup.optimizer in ("adamw_8bit", "adamw_4bit") and importlib.util.find_spec("torchao") is None:
        raise ValueError(
            f"optimizer = {setup.optimizer!r} is torchao's, which is not installed: pip install 'longrecipe[gpu]', or "
            "take adamw_fp32 with fp32_weights."
        )
    if setup.optimizer in ("adamw_fp32", "adamw_bf16") and setup.fp32_weights != (setup.optimizer == "adamw_fp32"):
        raise ValueError(
            f"optimizer = {setup.optimizer!r} with fp32_weights = {setup.fp32_weights}: torch's AdamW keeps moments of "
            "the weights' own dtype; adamw_fp32 goes with fp32_weights, adamw_bf16 without."
        )
    if setup.offload_activations and torch.accelerator.current_accelerator() is None:
        raise ValueError("offload_activations moves activations off a GPU, and there is none here: leave it off.")
    if setup.offload_optimizer:
        raise ValueError("offload_optimizer: use accelerate's FSDP or DeepSpeed configuration, which offer it.")
