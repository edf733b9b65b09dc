"""Plan training: GPU-hours, number of GPUs, and the longest samples that fit."""

import bisect

from transformers import PreTrainedConfig

from longrecipe.cost.memory import training_memory
from longrecipe.cost.time import Device, step_seconds
from longrecipe.settings.memory import Setup

# Samples per optimizer step in the paper.
BATCH = 96
# The search for the longest sample stops here, tokens.
LONGEST = 4096 * 1024
# Measurements leave out what needs this times the memory of the GPU or more, according to the model.
TRIED = 1.1
# Each saving of the default setup switched off, one at a time, and one that is off by default switched on.
SAVINGS = {
    "as set up": {},
    "activations offloaded": {"offload_activations": True},
    "no fused loss": {"fused_loss": False},
    "moments in 16 bits": {"optimizer": "adamw_bf16"},
    "moments in 32 bits": {"optimizer": "adamw_fp32"},
    "no checkpointing": {"checkpointing": False},
}
# What takes less time than the default setup.
FASTER = {
    "attention kept": {"keep_attention": True},
    "blocks compiled": {"compile": True},
    "both": {"keep_attention": True, "compile": True},
}


def gpu_hours(
    config: PreTrainedConfig, n_tokens: int, n_samples: float, *, device: Device, setup: Setup | None = None
) -> float:
    """Modelled GPU-hours of stage 1, in steps of 96 samples of n tokens, without communication between GPUs."""
    return step_seconds(config, n_tokens, device, setup=setup, batches=BATCH).total * n_samples / BATCH / 3600


def gpus_needed(config: PreTrainedConfig, n_tokens: int, device: Device) -> float:
    """GPUs needed for samples of n tokens with the default setup, sharded weights and split samples; NaN above 64."""
    degrees = (1, 2, 4, 8, 16, 32, 64)
    peaks = {k: training_memory(config, n_tokens, Setup(shards=k, sequence_parallel=k)).peak for k in degrees}
    return next((k for k, peak in peaks.items() if peak <= device.memory_bytes), float("nan"))


def longest_sample(config: PreTrainedConfig, *, gpu_bytes: float, host_bytes: float, setup: Setup) -> int:
    """The longest sample that fits, in tokens, a multiple of 1024 up to LONGEST; 0 if not even 1024 tokens fit."""

    def too_long(thousands: int) -> bool:
        memory = training_memory(config, 1024 * thousands, setup)
        return memory.peak > gpu_bytes or memory.host > host_bytes

    return 1024 * bisect.bisect_left(range(1, LONGEST // 1024 + 1), True, key=too_long)
