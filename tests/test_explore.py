from types import SimpleNamespace

import ipywidgets
import matplotlib.pyplot as plt
import pandas as pd
import pytest

from longrecipe.plots import explore


@pytest.fixture
def drawn():
    """A function that draws, and the values it was called with."""
    calls = []

    def draw(**values):
        calls.append(values)
        return plt.figure()

    return SimpleNamespace(draw=draw, calls=calls)


def test_nobody_there_shows_the_figure_once_at_the_first_values(drawn, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(explore, "show", lambda figure: drawn.calls.append("shown"))
    assert not explore.live()
    explore.interact(drawn.draw, share=ipywidgets.FloatSlider(0.2, min=0, max=1), seed=ipywidgets.IntText(3))
    assert drawn.calls == [{"share": 0.2, "seed": 3}, "shown"]


def test_a_person_gets_a_control_that_redraws(drawn, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/01.ipynb")
    monkeypatch.setattr(explore, "show", lambda figure: None)
    slider = ipywidgets.FloatSlider(0.2, min=0, max=1)
    assert explore.live()
    explore.interact(drawn.draw, share=slider)
    slider.value = 0.5
    assert drawn.calls == [{"share": 0.2}, {"share": 0.5}]


def test_folded_tables_show_their_summary():
    page = explore.folded(pd.DataFrame({"lift": [2.5]}, index=["number"]), "All types").data
    assert page.startswith("<details><summary>All types</summary><table") and "2.5" in page
