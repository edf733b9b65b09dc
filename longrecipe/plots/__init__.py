"""Figures with labelled axes, units and alt text. A name has one colour and marker in all figures."""

from longrecipe.plots.drawing import (
    colour_bar,
    depth_heatmap,
    depth_heatmaps,
    depth_labels,
    describe,
    label_ends,
    nothing,
    points,
)
from longrecipe.plots.positions import distances, figure_3, placements, position_map, position_maps
from longrecipe.plots.style import DPI, PALETTE, STYLE, WIDTH_INCHES, colour, marker, save, show
from longrecipe.plots.tokens import (
    mean_weights,
    measured_shares,
    passage,
    position_shares,
    quoted_shares,
    selections,
    token_shift,
)
from longrecipe.plots.training import losses, passkeys, pretraining, recall_heatmaps, retention, wavelengths

__all__ = [
    "DPI",
    "PALETTE",
    "STYLE",
    "WIDTH_INCHES",
    "colour",
    "colour_bar",
    "depth_heatmap",
    "depth_heatmaps",
    "depth_labels",
    "describe",
    "distances",
    "figure_3",
    "label_ends",
    "losses",
    "marker",
    "mean_weights",
    "measured_shares",
    "nothing",
    "passage",
    "passkeys",
    "placements",
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
    "show",
    "token_shift",
    "wavelengths",
]
