"""What training costs: floating-point operations and memory, from any model's configuration, before anything starts."""

from longrecipe.cost.flops import Counts, Flops, counts, flops_per_token, training_flops
from longrecipe.cost.memory import (
    GB,
    OPTIMIZER_BYTES,
    DoesNotFitError,
    Memory,
    Setup,
    activation_bytes,
    check_fits,
    training_memory,
)
from longrecipe.cost.time import DEVICES, Device, Seconds, mfu, step_seconds

__all__ = [
    "DEVICES",
    "GB",
    "OPTIMIZER_BYTES",
    "Counts",
    "Device",
    "DoesNotFitError",
    "Flops",
    "Memory",
    "Seconds",
    "Setup",
    "activation_bytes",
    "check_fits",
    "counts",
    "flops_per_token",
    "mfu",
    "step_seconds",
    "training_flops",
    "training_memory",
]
