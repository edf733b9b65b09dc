"""The cost of training, computed from the configuration of a model: operations, memory, time and disk."""

from longrecipe.cost.disk import disk_bytes
from longrecipe.cost.flops import Counts, Flops, cached_width, counts, flops_per_token, training_flops
from longrecipe.cost.memory import (
    GB,
    OPTIMIZER_BYTES,
    DoesNotFitError,
    Memory,
    activation_bytes,
    check_fits,
    training_memory,
)
from longrecipe.cost.plan import BATCH, FASTER, LONGEST, SAVINGS, TRIED, gpu_hours, gpus_needed, longest_sample
from longrecipe.cost.time import DEVICES, Device, Seconds, device_of, mfu, step_seconds
from longrecipe.cost.traffic import traffic_bytes

__all__ = [
    "BATCH",
    "DEVICES",
    "FASTER",
    "GB",
    "LONGEST",
    "OPTIMIZER_BYTES",
    "SAVINGS",
    "TRIED",
    "Counts",
    "Device",
    "DoesNotFitError",
    "Flops",
    "Memory",
    "Seconds",
    "activation_bytes",
    "cached_width",
    "check_fits",
    "counts",
    "device_of",
    "disk_bytes",
    "flops_per_token",
    "gpu_hours",
    "gpus_needed",
    "longest_sample",
    "mfu",
    "step_seconds",
    "traffic_bytes",
    "training_flops",
    "training_memory",
]
