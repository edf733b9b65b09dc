"""The look that all figures share: one colour a stage and a method throughout, and how they are saved."""

import colorsys
import hashlib
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
    "stratified": "#332288",
    "source": "#009E73",
    "pose": "#E69F00",
    "rpes": "#D55E00",
    "cream": "#AA4499",
    "endprompt": "#882255",
    "flt": "#000000",
    "none": COLOURS["RoPE rule alone"],
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
    "contiguous": "#595959",
    "contiguous, first tokens": "#B5B5B5",
}
MODEL_COLOURS = {"llama3": "#0072B2", "mistral": "#E69F00", "qwen2": "#009E73"}
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
    """The colour of a stage, a method, a model or a name in tables, as #RRGGBB; the same in every figure and process.

    Names without a colour of their own, such as methods with options (`pose:n_chunks=4`), get one that follows from the
    name.
    """
    for known in (COLOURS, METHOD_COLOURS, NAME_COLOURS, MODEL_COLOURS):
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
