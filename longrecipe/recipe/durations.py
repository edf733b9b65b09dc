"""Refuse training and tagging that take too long, before any work."""

import torch
from transformers import PreTrainedConfig

from longrecipe import cost, tokens
from longrecipe.positions import find
from longrecipe.recipe.draws import needs_anchors
from longrecipe.settings import Params

# A fast CPU's FLOP per second, and the longest training on a CPU in days: longer ones were surely started by mistake.
_CPU_FLOPS, _MOST_DAYS = 2.0e11, 1.0
# The longest tagging, a night in hours.
_MOST_HOURS = 8.0


def check_days(p: Params, config: PreTrainedConfig) -> None:
    """Raise ValueError if there is no GPU and stages 1 and 2 would take over a day without one (modelled)."""
    if torch.cuda.is_available() or find(p.method).positions is None:
        return
    long = p.extend_steps * p.extend_batch_size + p.replay_long_share * p.replay_steps * p.replay_batch_size
    short = (1 - p.replay_long_share) * p.replay_steps * p.replay_batch_size
    flops = cost.training_flops(config, long * p.train_length, p.train_length)
    flops += cost.training_flops(config, short * p.short_length, p.short_length)
    days = flops / _CPU_FLOPS / 86400
    if days > _MOST_DAYS:
        raise ValueError(
            f"{p.model} at scale {p.scale!r}, target_length = {p.target_length}: training would take {days:.0f} days "
            "without a GPU (modelled). Use a GPU, a shorter target_length or fewer steps (smollm2 has -p profile cpu); "
            "the token analysis and the positions (notebooks 01 and 02) work here."
        )


def check_tagging(p: Params) -> None:
    """Raise ValueError if tagging the documents of a run would take more than a night (modelled, one core)."""
    if p.token_types != "pos" or not needs_anchors(p) or p.tagger not in tokens.TAGGED_PER_SECOND:
        return
    count = (p.n_documents + p.analysis_documents) * p.target_length
    hours = {name: count / rate / 3600 for name, rate in tokens.TAGGED_PER_SECOND.items()}
    if hours[p.tagger] > _MOST_HOURS:
        quicker = [f"tagger = {name!r} ({took:.1f} hours), " for name, took in hours.items() if took <= _MOST_HOURS]
        raise ValueError(
            f"token_types = 'pos': {p.tagger} would tag {p.n_documents:,} documents of {p.target_length:,} tokens in "
            f"{hours[p.tagger]:.0f} hours (modelled). Use {''.join(quicker)}token_types = 'class' or fewer n_documents."
        )
