r"""Position index transformation: short samples with the position indices of long ones (paper, section 4.2).

Every transform is a pure function `f(segment_lengths, target_length, rng) -> position_ids`: from the token counts of
a sample's segments (sentences), n = sum(segment_lengths) tokens in all, and the target window T it draws n strictly
increasing integers in [0, T). `METHODS` is the one table that params, notebooks, figures and error messages read; a new
method is one function and one entry there. `coverage` measures what positions cover.
"""

from longrecipe.positions import coverage
from longrecipe.positions.methods import METHODS, Method, PositionFunction, find
from longrecipe.positions.rivals import cream, endprompt, flt, pose, rpes
from longrecipe.positions.transforms import longrecipe, source, stratified

__all__ = [
    "METHODS",
    "Method",
    "PositionFunction",
    "coverage",
    "cream",
    "endprompt",
    "find",
    "flt",
    "longrecipe",
    "pose",
    "rpes",
    "source",
    "stratified",
]
