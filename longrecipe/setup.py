"""How a run spends memory, and whether it can be trained here at all."""

import torch
from transformers import PreTrainedConfig

from longrecipe import cost, train
from longrecipe.cost import Setup
from longrecipe.params import MEMORY, Params
from longrecipe.positions import method as method_of
from longrecipe.processes import n_processes

# FLOP a second that a CPU may reach at best, and days that nobody starts by mistake.
_CPU_FLOPS, _MOST_DAYS = 2.0e11, 1.0


def setup_of(params: Params) -> Setup:
    """How a run spends memory: its settings of the same names, and whether the launcher shards the weights."""
    return Setup(**{name: getattr(params, name) for name in MEMORY}, shards=train.shards_asked(n_processes()))


def rows_at_once(params: Params, batch_size: int) -> int:
    """Samples that a GPU reads at a time of steps of batch_size: what divides its share, samples_at_once at most."""
    share = max(1, batch_size // train.n_readers(setup_of(params)))
    most = min(share, params.samples_at_once or share)
    return next(rows for rows in range(most, 0, -1) if share % rows == 0)


def check_days(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError where there is no GPU and stages 1 and 2 would take over a day without one (modelled)."""
    if torch.cuda.is_available() or method_of(p.method).positions is None:
        return
    long = p.extend_steps * p.extend_batch_size + p.replay_long_share * p.replay_steps * p.replay_batch_size
    short = (1 - p.replay_long_share) * p.replay_steps * p.replay_batch_size
    flops = cost.training_flops(config, long * p.train_length, p.train_length)
    flops += cost.training_flops(config, short * p.short_length, p.short_length)
    days = flops / _CPU_FLOPS / 86400
    if days > _MOST_DAYS:
        raise ValueError(
            f"{p.model} at scale {p.scale!r}, target_length = {p.target_length}: training would take {days:.0f} days "
            "without a GPU (modelled). Take a GPU, a shorter target_length or fewer steps (smollm2 has -p profile "
            "cpu); the token analysis and the positions (notebooks 01 and 02) work here."
        )
