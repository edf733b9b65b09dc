"""Figures with labelled axes and units, and the same colour for a stage or method everywhere. Each returns a Figure."""

from longrecipe.plots.drawing import depth_heatmap, points
from longrecipe.plots.positions import distances, figure_3, position_map, position_maps
from longrecipe.plots.style import STYLE, colour, save
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
    "STYLE",
    "colour",
    "depth_heatmap",
    "distances",
    "figure_3",
    "losses",
    "measured_shares",
    "passage",
    "passkeys",
    "points",
    "position_map",
    "position_maps",
    "position_shares",
    "pretraining",
    "quoted_shares",
    "recall_heatmaps",
    "retention",
    "save",
    "selections",
    "token_shift",
    "wavelengths",
]
