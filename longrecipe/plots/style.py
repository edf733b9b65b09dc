"""The style of all figures: a colour and a marker for each stage, method and family, and how figures are shown."""

import colorsys
import hashlib
from collections.abc import Mapping
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from longrecipe.families import FAMILIES
from longrecipe.positions import METHODS

# Okabe and Ito's colours, which people with any kind of colour vision can tell apart. Yellow is for areas: a yellow
# line is hard to see on white. Black, grey and these colours with markers are all that figures use.
PALETTE = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "orange": "#E69F00",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "yellow": "#F0E442",
    "black": "#000000",
    "grey": "#7F7F7F",
}
# Stages, and methods with other options or other sentences, by their names in tables: colour and marker. Those of
# methods and families are in METHODS and FAMILIES.
LOOKS = {
    "base": (PALETTE["grey"], "h"),
    "H'": (PALETTE["sky"], "D"),
    "extended": (PALETTE["blue"], "o"),
    "replayed": (PALETTE["orange"], "s"),
    "merged": (PALETTE["green"], "^"),
    "replayed, short text only": (PALETTE["vermillion"], "v"),
    "paper's setting": (PALETTE["black"], "P"),
    "LongRecipe, first tokens": (PALETTE["sky"], "<"),
    "LongRecipe, random sentences": (PALETTE["green"], ">"),
    "contiguous": (PALETTE["vermillion"], "P"),
    "contiguous, first tokens": (PALETTE["black"], "d"),
}
MARKERS = "o^sDvP<X>phd8*"
WIDTH_INCHES, DPI = 7.2, 160
# A figure of full width is shown this wide in a notebook, which makes 8 points 13 pixels high.
WIDTH_PIXELS = 840
STYLE = {
    "figure.dpi": DPI,
    "figure.constrained_layout.use": True,
    # Opaque, so that figures can be read in a dark JupyterLab, too.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "font.size": 9,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
}


def colour(name: str) -> str:
    """The colour of a stage, a method (by name or title), a variant or a family, as #RRGGBB, the same in every figure.

    Other names, such as methods with options (`pose:n_chunks=4`), get a colour that is computed from the name.
    """
    if known := _look(name):
        return known[0]
    digest = hashlib.sha256(name.encode()).digest()
    hue, light, full = (int.from_bytes(digest[i : i + 4]) / 2**32 for i in (0, 4, 8))
    parts = colorsys.hls_to_rgb(hue, 0.3 + 0.3 * light, 0.45 + 0.5 * full)
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)


def marker(name: str) -> str:
    """The marker of a name, in the notation of matplotlib. Colour and marker together belong to one name alone.

    Names that `colour` does not know get a marker that is computed from the name.
    """
    if known := _look(name):
        return known[1]
    return MARKERS[hashlib.sha256(name.encode()).digest()[12] % len(MARKERS)]


def _look(name: str) -> tuple[str, str] | None:
    titles = {method.title: method for method in METHODS.values()}
    if found := METHODS.get(name) or FAMILIES.get(name) or titles.get(name):
        return found.colour, found.marker
    return LOOKS.get(name)


def show(*figures: Figure) -> None:
    """Show figures in a notebook, with the alt text that their functions gave them, and close them.

    The alt text is in the metadata of the output, where nbconvert's template `classic` reads it. JupyterLab 4.6 and the
    template `lab` have no place for it, so titles and labels say the finding, too. A full-width figure is drawn at 160
    dpi and shown 840 pixels wide, so that it is sharp on screens of high resolution.
    """
    from IPython.display import display

    for figure in figures:
        width = round(WIDTH_PIXELS * figure.get_figwidth() / WIDTH_INCHES)
        display(figure, metadata={"image/png": {"alt": figure.get_label(), "width": width}})
        plt.close(figure)


def save(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Write figures as PNG into `<folder>/figures`, named by their keys, with their alt text as Description."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        metadata = {"Description": figure.get_label()}
        figure.savefig(folder / "figures" / f"{name}.png", dpi=DPI, metadata=metadata, pil_kwargs={"optimize": True})
