"""Draw the method as the picture docs/method.png of the README: `python docs/method.py`.

Sentences, anchors and positions come from the library, with a fixed seed. tests/test_figures.py fails if the picture
was drawn by another version of this file, or from other data.
"""

import hashlib
import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from longrecipe import plots, positions
from longrecipe.data import selection

PICTURE = Path(__file__).with_suffix(".png")
TARGET, WINDOW, RATIO = 4096, 256, 0.3
ALT = (
    "The method in four steps. 1: a long document of T tokens with anchors, the tokens that change most when a model "
    "learns long text. 2: whole sentences with anchors are kept, 30 % of the tokens. 3: each sample spreads these "
    "sentences over positions 0 to T, in order, with random gaps. 4: the original model is trained on such samples "
    "(extend), then on general text (replay), and merged with the original weights into a model that reads T tokens."
)
INK, PALE, EMPTY = "#222222", "#D9D9D9", "#F2F2F2"
SHADES = [plots.PALETTE[name] for name in ("blue", "orange", "green", "vermillion", "sky", "purple")]
# Inches: the picture, the part of it in which tokens are drawn, and the height of a bar.
WIDTH, HEIGHT, LEFT, RIGHT, BAR = 7.2, 6.1, 2.62, 7.05, 0.3
# Height in inches from the top, heading and explanation of each step.
STEPS = (
    (
        0.7,
        "A long document",
        "T tokens, in sentences. Dots: anchors, the tokens that change most when a model learns long text.",
    ),
    (1.9, "Keep anchored sentences", f"As many as fit into {100 * RATIO:.0f} % of the tokens, in document order."),
    (
        2.85,
        "Spread their positions",
        "Random gaps spread them over the new window, with new gaps in each sample. Short samples then teach distances "
        "of up to T tokens.",
    ),
    (4.42, "Train, replay, merge", ""),
)


def data() -> tuple[np.ndarray, np.ndarray, selection.Sample, list[np.ndarray]]:
    """Sentence lengths, places of anchors, the selected sentences, and position_ids of three samples of them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(80, 160, size=64)
    lengths = lengths[np.cumsum(lengths) <= TARGET]
    lengths[-1] += TARGET - lengths.sum()
    starts = np.cumsum(lengths) - lengths
    anchors = starts + rng.integers(30, 50, size=len(lengths))
    anchors = anchors[rng.random(len(anchors)) < 0.45]
    is_anchor = np.isin(np.arange(TARGET), anchors)
    kept = selection.select(np.arange(TARGET), lengths, is_anchor, n_tokens=int(RATIO * TARGET), rng=rng)
    return lengths, anchors, kept, [positions.longrecipe(kept.segment_lengths, TARGET, rng) for _ in range(3)]


def fingerprint() -> str:
    """A hash of this file and of the data that it draws."""
    lengths, anchors, kept, samples = data()
    digest = hashlib.sha256(Path(__file__).read_text(encoding="utf-8").encode())
    for each in (lengths, anchors, *kept, *samples):
        digest.update(np.asarray(each, dtype=np.int64).tobytes())
    return digest.hexdigest()


def picture() -> Figure:
    """The picture. Its only axes are in inches from the upper left corner."""
    lengths, anchors, kept, samples = data()
    packed = np.cumsum(kept.segment_lengths) - kept.segment_lengths
    with plt.rc_context(plots.STYLE | {"figure.constrained_layout.use": False, "text.color": INK}):
        figure = plt.figure(figsize=(WIDTH, HEIGHT))
        figure.set_label(ALT)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        axis.axis("off")
        title = f"LongRecipe: a {TARGET // WINDOW} times longer window from {100 * RATIO:.0f} % of its tokens"
        axis.text(0.13, 0.28, title, size=13.5, weight="bold", va="center")
        for number in range(1, len(STEPS) + 1):
            step(axis, number)

        document, sample, spread, training = (y for y, _, _ in STEPS)
        starts = np.cumsum(lengths) - lengths
        bars(axis, document, starts, lengths, shades=[PALE] * len(lengths))
        bars(axis, document, kept.segment_starts, kept.segment_lengths)
        middle = np.full(len(anchors), document + BAR / 2)
        axis.plot(at(anchors), middle, "o", ms=3.6, color="black", mec="white", mew=0.6)

        join(axis, (document + BAR, kept.segment_starts), (sample, packed), kept.segment_lengths)
        bars(axis, sample, packed, kept.segment_lengths)
        axis.text(at(RATIO * TARGET) + 0.1, sample + BAR / 2, "a short training sample", size=9.5, va="center")

        join(axis, (sample + BAR, packed), (spread, samples[0][packed]), kept.segment_lengths)
        for i, ids in enumerate(samples):
            y = spread + 0.36 * i
            axis.add_patch(Rectangle((LEFT, y), RIGHT - LEFT, BAR, color=EMPTY, lw=0))
            bars(axis, y, ids[packed], kept.segment_lengths)
        ruler(axis, spread + 0.36 * 2 + BAR + 0.08)
        flow(axis, training + 0.42)
    return figure


def at(token: np.ndarray | float) -> np.ndarray | float:
    """Where a token or a position is drawn, in inches."""
    return LEFT + (RIGHT - LEFT) * np.asarray(token) / TARGET


def step(axis: Axes, number: int) -> None:
    """The number, heading and explanation of a step."""
    y, heading, note = STEPS[number - 1]
    axis.add_patch(Circle((0.27, y + 0.1), 0.14, color=INK, lw=0))
    axis.text(0.27, y + 0.105, str(number), size=10, weight="bold", color="white", ha="center", va="center")
    axis.text(0.5, y + 0.1, heading, size=10, weight="bold", va="center")
    axis.text(0.5, y + 0.28, textwrap.fill(note, 31), size=8.5, va="top", linespacing=1.25)


def bars(axis: Axes, y: float, starts: np.ndarray, lengths: np.ndarray, *, shades: Sequence[str] = ()) -> None:
    """Sentences as bars between thin white lines, in the colours of SHADES in turn unless shades are given."""
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        shade = shades[i] if shades else SHADES[i % len(SHADES)]
        axis.add_patch(Rectangle((at(start), y), at(length) - LEFT, BAR, fc=shade, ec="white", lw=0.7))


def join(axis: Axes, upper: tuple[float, np.ndarray], lower: tuple[float, np.ndarray], lengths: np.ndarray) -> None:
    """Pale bands from sentences in one row, given by its height and their starts, to the same ones in a lower row."""
    for i, (above, below, length) in enumerate(zip(upper[1], lower[1], lengths, strict=True)):
        (a, b), (c, d) = at(np.array([above, above + length])), at(np.array([below, below + length]))
        corners = [(a, upper[0]), (b, upper[0]), (d, lower[0]), (c, lower[0])]
        axis.add_patch(Polygon(corners, color=SHADES[i % len(SHADES)], alpha=0.16, lw=0))


def ruler(axis: Axes, y: float) -> None:
    """The axis of positions, with the original window and the new one."""
    axis.plot([LEFT, RIGHT], [y, y], color=INK, lw=0.9)
    for token, label, side in ((0, "position 0", "left"), (TARGET, f"T = {TARGET // WINDOW} W", "right")):
        axis.plot([at(token)] * 2, [y - 0.04, y + 0.04], color=INK, lw=0.9)
        axis.text(at(token), y + 0.15, label, size=8.5, ha=side, va="center")
    axis.plot([LEFT, at(WINDOW)], [y, y], color=INK, lw=4, solid_capstyle="butt")
    axis.text(at(WINDOW) + 0.75, y + 0.15, "thick: W, the original window", size=8.5, va="center")


def flow(axis: Axes, y: float) -> None:
    """The training stages as boxes from the original model to the one that reads T tokens."""
    boxes = (
        ("Original", "reads W tokens", PALE),
        ("Extend", "train on samples\nwith gaps", plots.colour("extended")),
        ("Replay", "train on general\ntext", plots.colour("replayed")),
        ("Merge", "average with the\noriginal weights", plots.colour("merged")),
        ("Long model", "reads T tokens", INK),
    )
    width, gap, height = 1.22, 0.2, 0.72
    lefts = [0.15 + i * (width + gap) for i in range(len(boxes))]
    for left, (name, note, shade) in zip(lefts, boxes, strict=True):
        outline = {"boxstyle": "round,pad=0,rounding_size=0.08", "fc": "white", "ec": shade, "lw": 1.8}
        axis.add_patch(FancyBboxPatch((left, y), width, height, **outline))
        axis.text(left + width / 2, y + 0.18, name, size=10, weight="bold", ha="center", va="center")
        axis.text(left + width / 2, y + 0.32, note, size=8.5, ha="center", va="top", linespacing=1.2)
    arrow = {"arrowstyle": "-|>", "mutation_scale": 12, "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    for left in lefts[:-1]:
        ends = (left + width + 0.02, y + height / 2), (left + width + gap - 0.02, y + height / 2)
        axis.add_patch(FancyArrowPatch(*ends, **arrow))
    # The original's weights also go into the merge.
    start, end, low = lefts[0] + width / 2, lefts[3] + width / 2, y + height + 0.2
    axis.plot([start, start, end], [y + height, low, low], color=INK, lw=1.2)
    axis.add_patch(FancyArrowPatch((end, low), (end, y + height + 0.02), **arrow))
    axis.text((start + end) / 2, low + 0.14, "the original weights", size=8.5, ha="center", va="center")


if __name__ == "__main__":
    figure = picture()
    figure.savefig(PICTURE, dpi=plots.DPI, metadata={"Description": ALT, "Source": fingerprint()})
