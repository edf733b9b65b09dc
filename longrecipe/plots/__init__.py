"""Figures with labelled axes and units, and the same colour for a stage or method everywhere. Each returns a Figure."""

from longrecipe.plots.experiments import cost, depth_maps, fronts, methods, ratios, stages
from longrecipe.plots.positions import distances, figure_3, position_map, position_maps
from longrecipe.plots.resources import cost_by_length, flop_parts, longest_samples, memory_parts, step_times
from longrecipe.plots.style import colour, save
from longrecipe.plots.tokens import (
    measured_shares,
    passage,
    position_shares,
    quoted_shares,
    selections,
    token_shift,
)
from longrecipe.plots.training import losses, passkeys, pretraining, recall_heatmaps, retention, wavelengths

__all__ = [
    "colour",
    "cost",
    "cost_by_length",
    "depth_maps",
    "distances",
    "figure_3",
    "flop_parts",
    "fronts",
    "longest_samples",
    "losses",
    "measured_shares",
    "memory_parts",
    "methods",
    "passage",
    "passkeys",
    "position_map",
    "position_maps",
    "position_shares",
    "pretraining",
    "quoted_shares",
    "ratios",
    "recall_heatmaps",
    "retention",
    "save",
    "selections",
    "stages",
    "step_times",
    "token_shift",
    "wavelengths",
]
