"""Table 4: what the recipe costs, modelled and measured, next to what the paper reports (paper, section 5)."""

from longrecipe.experiments.table4.figures import (
    cost_by_length,
    flop_parts,
    longest_samples,
    memory_parts,
    price,
)
from longrecipe.experiments.table4.measured import faster, gpu_claims, gpu_rates, gpu_readings, gpu_steps, speeds
from longrecipe.experiments.table4.steps import mini_ratios, mini_steps, step_times
from longrecipe.experiments.table4.tables import (
    CARDS,
    by_length,
    longest,
    memory,
    prices,
    ratios,
    shown,
    table_4,
    traces,
)
from longrecipe.experiments.table4.verdicts import claims

__all__ = [
    "CARDS",
    "by_length",
    "claims",
    "cost_by_length",
    "faster",
    "flop_parts",
    "gpu_claims",
    "gpu_rates",
    "gpu_readings",
    "gpu_steps",
    "longest",
    "longest_samples",
    "memory",
    "memory_parts",
    "mini_ratios",
    "mini_steps",
    "price",
    "prices",
    "ratios",
    "shown",
    "speeds",
    "step_times",
    "table_4",
    "traces",
]
