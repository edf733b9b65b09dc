"""The style of all figures: one colour for each stage, method and family, and how figures are saved."""

import colorsys
import hashlib
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from longrecipe.families import FAMILIES
from longrecipe.positions import METHODS

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart; those of methods are in METHODS.
STAGES = {
    "base": "#7F7F7F",
    "H'": "#56B4E9",
    "extended": "#0072B2",
    "replayed": "#E69F00",
    "merged": "#009E73",
    "replayed, short text only": "#F0C66B",
    "paper's setting": "#D55E00",
}
# Methods with other options or other sentences, by their names in tables.
VARIANTS = {
    "LongRecipe, first tokens": "#56B4E9",
    "LongRecipe, random sentences": "#0099AD",
    "contiguous": "#595959",
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


def colour(name: str) -> str:
    """The colour of a stage, a method (by name or title), a variant or a family, as #RRGGBB, the same in every figure.

    Other names, such as methods with options (`pose:n_chunks=4`), get a colour that is computed from the name.
    """
    if name in METHODS or name in FAMILIES:
        return (METHODS.get(name) or FAMILIES[name]).colour
    titles = {method.title: method.colour for method in METHODS.values()}
    for known in (STAGES, VARIANTS, titles):
        if name in known:
            return known[name]
    digest = hashlib.sha256(name.encode()).digest()
    hue, light, full = (int.from_bytes(digest[i : i + 4]) / 2**32 for i in (0, 4, 8))
    parts = colorsys.hls_to_rgb(hue, 0.3 + 0.3 * light, 0.45 + 0.5 * full)
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)


def save(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as PNG into `<folder>/figures`, named by their keys."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / "figures" / f"{name}.png", dpi=150)
