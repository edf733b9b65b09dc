"""Every figure can be read: its size, its text, its alt text and colours. Examples are in figure_cases.py."""

import inspect
import itertools
import runpy
from pathlib import Path

import figure_cases
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from longrecipe import plots
from longrecipe.experiments import figure2, fronts, table1, table3, table4

ROOT = Path(__file__).resolve().parents[1]
MOST_PANELS, LEAST_POINTS, OVERLAP_PIXELS = 3, 8, 4


def texts(figure: Figure) -> list[Text]:
    """The texts that are seen, without tick labels beyond the limits of their axis."""
    hidden = set()
    for axis in figure.findobj(plt.Axes):
        for line in (axis.xaxis, axis.yaxis):
            low, high = sorted(line.get_view_interval())
            room = 1e-6 * (high - low)
            for tick in (*line.get_major_ticks(), *line.get_minor_ticks()):
                if not axis.axison or not low - room <= tick.get_loc() <= high + room:
                    hidden |= {tick.label1, tick.label2}
    found = figure.findobj(lambda each: isinstance(each, Text) and each.get_visible() and each.get_text().strip())
    return [each for each in dict.fromkeys(found) if each not in hidden]


def overlapping(figure: Figure) -> list[str]:
    """Pairs of upright texts that cover each other, and texts that are cut off at the edge of the figure."""
    found = []
    boxes = [(each, each.get_window_extent()) for each in texts(figure)]
    for each, box in boxes:
        if box.x0 < -1 or box.y0 < -1 or box.x1 > figure.bbox.x1 + 1 or box.y1 > figure.bbox.y1 + 1:
            found.append(f"{each.get_text()!r} is cut off")
    upright = [(each, box) for each, box in boxes if each.get_rotation() % 90 == 0]
    for (one, first), (other, second) in itertools.combinations(upright, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        if width > OVERLAP_PIXELS and height > OVERLAP_PIXELS:
            found.append(f"{one.get_text()!r} covers {other.get_text()!r}")
    return found


def problems(figure: Figure) -> list[str]:
    """What is wrong with a figure, in words."""
    figure.canvas.draw()
    found = []
    if figure.get_figwidth() > plots.WIDTH_INCHES + 1e-6:
        found.append(f"{figure.get_figwidth():.1f} inches wide, at most {plots.WIDTH_INCHES}")
    if figure.get_facecolor() != (1, 1, 1, 1):
        found.append("its background is not white")
    if len(figure.get_label()) < 40:
        found.append(f"no alt text, see plots.describe: {figure.get_label()!r}")
    places = [axis.get_subplotspec() for axis in figure.axes if axis.get_subplotspec() and axis.axison]
    if any(place.get_gridspec().ncols > MOST_PANELS for place in places):
        found.append(f"more than {MOST_PANELS} panels in a row")
    found += [
        f"{each.get_text()!r} has {each.get_fontsize():g} points, at least {LEAST_POINTS}"
        for each in texts(figure)
        if each.get_fontsize() < LEAST_POINTS
    ]

    def by_number(each):
        return isinstance(each, ScalarMappable) and each.get_array() is not None

    if figure.findobj(by_number) and not any(axis.get_label() == "<colorbar>" for axis in figure.axes):
        found.append("no colour bar, see plots.colour_bar")
    return found + overlapping(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", figure_cases.CASES)
def test_figure_is_readable_and_has_alt_text(name):
    assert problems(figure_cases.CASES[name]()) == []


def test_every_figure_function_has_an_example():
    def makes_figure(each):
        return inspect.isfunction(each) and inspect.signature(each).return_annotation is Figure

    modules = {"plots": plots} | {each.__name__.split(".")[-1]: each for each in (figure2, fronts, table1, table3)}
    modules["table4"] = table4
    found = {
        f"{name}.{function}"
        for name, module in modules.items()
        for function, each in vars(module).items()
        if makes_figure(each)
    }
    # depth_heatmaps draws recall_heatmaps and table1.depth_figure, which describe it.
    assert found - {"plots.depth_heatmaps"} <= set(figure_cases.CASES)


def bad(**changes):
    """A figure with one fault."""
    with plt.rc_context(plots.STYLE):
        figure, axes = plt.subplots(1, changes.pop("panels", 1), figsize=(changes.pop("width", 5), 3), squeeze=False)
        plots.describe(figure, changes.pop("alt", "A figure with a fault, which the check finds."))
        axis = axes[0, 0]
        if changes.pop("heatmap", False):
            axis.imshow(np.eye(3))
        for x in changes.pop("labels", ()):
            axis.text(x, 0.5, "a label", fontsize=changes.get("size", 8))
    return figure


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": 9}, "inches wide"),
        ({"panels": 4}, "panels in a row"),
        ({"alt": ""}, "no alt text"),
        ({"heatmap": True}, "no colour bar"),
        ({"labels": [0.3, 0.35]}, "covers"),
        ({"labels": [0.3], "size": 7}, "7 points"),
    ],
)
def test_check_finds(changes, said):
    assert said in "; ".join(problems(bad(**changes)))


def test_check_accepts_a_good_figure():
    assert problems(bad(labels=[0.2, 0.6])) == []


def test_picture_of_the_method_is_readable_and_up_to_date():
    method = runpy.run_path(str(ROOT / "docs" / "method.py"))
    assert problems(method["picture"]()) == []
    with Image.open(method["PICTURE"]) as committed:
        assert committed.info["Source"] == method["fingerprint"](), "run `python docs/method.py`"
        assert committed.info["Description"] == method["ALT"]


# drawing


def test_label_ends_moves_labels_apart_and_keeps_their_order():
    with plt.rc_context(plots.STYLE):
        figure, axis = plt.subplots(figsize=(4, 3))
        axis.set(xlim=(0, 1), ylim=(0, 1))
        heights = [0.5, 0.52, 0.51, 0.9]
        plots.describe(figure, "Labels at the ends of lines that end at nearly one place.")
        labels = plots.label_ends(axis, [(1, y, f"at {y}", "black") for y in heights])
    assert problems(figure) == []
    centres = [(each.get_window_extent().y0 + each.get_window_extent().y1) / 2 for each in labels]
    assert np.argsort(centres).tolist() == [0, 2, 1, 3]
    # A label with room stays at its line.
    assert centres[3] == pytest.approx(axis.transData.transform((1, 0.9))[1], abs=4)


def test_alt_text_is_the_title_and_what_is_drawn_and_is_saved(tmp_path):
    figure = bad()
    plots.describe(figure, "Recall by text length.", "Recall is 90 % at 4,096 tokens")
    assert figure.get_label() == "Recall is 90 % at 4,096 tokens. Recall by text length."
    plots.save(tmp_path, {"recall": figure})
    with Image.open(tmp_path / "figures" / "recall.png") as picture:
        assert picture.info["Description"] == figure.get_label()
        assert picture.info["dpi"][0] == pytest.approx(160, abs=0.1)


def test_show_gives_the_picture_its_alt_text_and_closes_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda figure, metadata: shown.append((figure, metadata)))
    figure = bad(width=7.2)
    plots.show(figure)
    assert shown == [(figure, {"image/png": {"alt": figure.get_label(), "width": 840}})]
    assert not plt.get_fignums()
