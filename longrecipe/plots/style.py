"""The look that all figures share: one colour a stage and a method throughout, and how they are saved."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by every kind of colour vision.
COLOURS = {
    "base": "#7F7F7F",
    "RoPE rule alone": "#CC79A7",
    "H'": "#56B4E9",
    "extended": "#0072B2",
    "replayed": "#E69F00",
    "merged": "#009E73",
    "replayed, short text only": "#F0C66B",
    "paper's setting": "#D55E00",
}
METHOD_COLOURS = {
    "longrecipe": "#0072B2",
    "stratified": "#56B4E9",
    "source": "#009E73",
    "pose": "#E69F00",
    "rpes": "#D55E00",
    "cream": "#CC79A7",
    "endprompt": "#882255",
    "flt": "#000000",
}
# By the names in tables, see results.tables.NAMES.
NAME_COLOURS = {
    "base": COLOURS["base"],
    "RoPE rule alone": COLOURS["RoPE rule alone"],
    "FLT": METHOD_COLOURS["flt"],
    "RPES": METHOD_COLOURS["rpes"],
    "PoSE": METHOD_COLOURS["pose"],
    "LongRecipe": METHOD_COLOURS["longrecipe"],
    "LongRecipe, first tokens": "#56B4E9",
    "LongRecipe, random sentences": "#0099AD",
    "contiguous": "#7F7F7F",
    "contiguous, first tokens": "#B5B5B5",
}
STYLE = {
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "font.size": 9,
    "axes.titlesize": 9.5,
    "legend.frameon": False,
}


def save(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as PNG into `<folder>/figures`, named by their keys."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=150)
