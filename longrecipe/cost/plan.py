"""What a plan of training comes to: GPU-hours, GPUs that hold it, the longest samples that fit."""

import bisect
from typing import Any

from longrecipe.cost.memory import training_memory
from longrecipe.cost.time import Device, step_seconds
from longrecipe.settings.memory import Setup

# Samples of an optimizer step, the paper's.
BATCH = 96
# Where the search for the longest sample ends, tokens.
LONGEST = 4096 * 1024
# Each saving of the default setup switched off in turn, and one switched on that the default can do without.
SAVINGS = {
    "as set up": {},
    "activations offloaded": {"offload_activations": True},
    "no fused loss": {"fused_loss": False},
    "moments in 16 bits": {"optimizer": "adamw_bf16"},
    "moments in 32 bits": {"optimizer": "adamw_fp32"},
    "no checkpointing": {"checkpointing": False},
}


def gpu_hours(config: Any, n_tokens: int, n_samples: float, device: Device, setup: Setup | None = None) -> float:
    """Modelled GPU-hours of stage 1, in steps of 96 samples of n tokens; copies between GPUs are not counted."""
    return step_seconds(config, n_tokens, device, setup=setup, batches=BATCH).total * n_samples / BATCH / 3600


def gpus_needed(config: Any, n_tokens: int, device: Device) -> float:
    """GPUs that hold training on samples of n tokens as set up by default, weights and sample split; NaN over 64."""
    degrees = (1, 2, 4, 8, 16, 32, 64)
    peaks = {k: training_memory(config, n_tokens, Setup(shards=k, sequence_parallel=k)).peak for k in degrees}
    return next((k for k, peak in peaks.items() if peak <= device.memory_bytes), float("nan"))


def longest_sample(config: Any, gpu_bytes: float, host_bytes: float, setup: Setup) -> int:
    """The longest sample that fits, tokens, a multiple of 1024 up to LONGEST; 0 where even the shortest does not."""

    def too_long(thousands: int) -> bool:
        memory = training_memory(config, 1024 * thousands, setup)
        return memory.peak > gpu_bytes or memory.host > host_bytes

    return 1024 * bisect.bisect_left(range(1, LONGEST // 1024 + 1), True, key=too_long)
