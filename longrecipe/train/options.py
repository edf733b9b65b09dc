"""Turn a memory setup (`Setup`) into arguments of transformers.Trainer."""

import importlib.util
import os
import shutil
import sys
from typing import Any

import torch

from longrecipe.settings.memory import Setup
from longrecipe.train import savings
from longrecipe.train.sharding import fsdp_is_asked

_OPTIMIZERS = {
    "adamw_fp32": "adamw_torch_fused",
    # Its moments have the dtype of the weights.
    "adamw_bf16": "adamw_torch_fused",
    "adamw_8bit": "adamw_torch_8bit",
    "adamw_4bit": "adamw_torch_4bit",
}
# Those of torchao.
_LOW_BIT = ("adamw_8bit", "adamw_4bit")


def weights_dtype(setup: Setup) -> torch.dtype:
    """The dtype to load the weights in: float32 if a float32 copy is trained, else bfloat16."""
    return torch.float32 if setup.fp32_weights else torch.bfloat16


def attention_of(name: str) -> str:
    """transformers' name of an attention implementation.

    "auto" means PyTorch's own (sdpa), or flash-attn if it is installed and the GPU is older than Hopper. On an H100,
    sdpa chooses cuDNN's kernel, which took 0.57 of the time of PyTorch's FlashAttention-2 (results/resources/gpu.json).
    """
    if name != "auto":
        return name
    older = torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0)
    return "flash_attention_2" if older and importlib.util.find_spec("flash_attn") else "sdpa"


def trainer_options(setup: Setup) -> dict[str, Any]:
    """The TrainingArguments of a setup: optimizer, checkpointing and offload.

    bfloat16 weights are updated with stochastic rounding, a feature of torchao's 8-bit and 4-bit optimizers. Without
    it, most updates would be lost: at a learning rate of 5e-5 they are smaller than half of bfloat16's last digit.
    """
    options: dict[str, Any] = {"optim": _OPTIMIZERS[setup.optimizer]}
    if setup.optimizer in _LOW_BIT:
        options["optim_args"] = f"bf16_stochastic_round={not setup.fp32_weights}"
    if setup.checkpointing:
        kept = {"use_reentrant": False} | ({"offload": True} if setup.offload_activations else {})
        options |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": kept}
    return options


def check_installed(setup: Setup) -> None:
    """Raise ValueError if a setup needs a package that is not installed, or if its options are incompatible."""
    if setup.optimizer in _LOW_BIT and importlib.util.find_spec("torchao") is None:
        raise ValueError(
            f"optimizer = {setup.optimizer!r} needs torchao, which is not installed: pip install "
            "'longrecipe[gpu]', or use adamw_fp32 with fp32_weights."
        )
    if setup.optimizer in _LOW_BIT and fsdp_is_asked():
        # torchao 0.18: its low-bit moments lose their dtype when they are sharded, and the first step fails.
        raise ValueError(
            f"optimizer = {setup.optimizer!r} with FSDP2: torchao's low-bit moments cannot be sharded. Use adamw_fp32 "
            "with fp32_weights, as the profile gpus8 of params/paper does."
        )
    if setup.optimizer in ("adamw_fp32", "adamw_bf16") and setup.fp32_weights != (setup.optimizer == "adamw_fp32"):
        raise ValueError(
            f"optimizer = {setup.optimizer!r} with fp32_weights = {setup.fp32_weights}: PyTorch's AdamW keeps its "
            "moments in the dtype of the weights. Use adamw_fp32 with fp32_weights, adamw_bf16 without."
        )
    if setup.offload_activations and torch.accelerator.current_accelerator() is None:
        raise ValueError(
            "offload_activations = True needs a GPU to move activations from, and there is none: set it to False."
        )
    if setup.compile and savings.COMPILER == "inductor" and (missing := missing_compiler()):
        raise ValueError(f"compile = True needs {missing}, or set compile to False.")
    if setup.offload_optimizer:
        raise ValueError(
            "offload_optimizer = True is not supported here: set it to False, and turn the offloading on in "
            "accelerate's FSDP or DeepSpeed configuration."
        )


def missing_compiler() -> str | None:
    """The compiler that torch.compile would use and that is not found, with how to install it; None if all are here."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if not shutil.which(compiler):
        return f"a C++ compiler, and {compiler!r} is not found: install it, name another one in $CXX"
    if torch.cuda.is_available() and not importlib.util.find_spec("triton"):
        return "Triton, which is not installed: pip install triton"
    return None
