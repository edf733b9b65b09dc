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

__all__ = [
    "GB",
    "OPTIMIZER_BYTES",
    "Counts",
    "DoesNotFitError",
    "Flops",
    "Memory",
    "Setup",
    "activation_bytes",
    "check_fits",
    "counts",
    "flops_per_token",
    "training_flops",
    "training_memory",
]
