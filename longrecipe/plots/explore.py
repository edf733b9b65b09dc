"""Figures with controls in JupyterLab and tables that unfold; papermill, nbval and GitHub show a static figure."""

import os
from collections.abc import Callable
from typing import Any

import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from longrecipe.plots.style import show


def live() -> bool:
    """Whether the notebook is used interactively: a Jupyter server started its kernel, not papermill or nbval."""
    return "JPY_SESSION_NAME" in os.environ


def interact(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show the figure of draw(**values), in JupyterLab with a control for each value.

    Args: controls: ipywidgets controls by name. Outside JupyterLab the figure is drawn with their initial values.
    """
    if not live():
        show(draw(**{name: control.value for name, control in controls.items()}))
        return
    import ipywidgets

    ipywidgets.interact(lambda **values: show(draw(**values)), **controls)


def folded(table: pd.DataFrame, summary: str) -> HTML:
    """A table that a notebook shows as one line, its summary, until a reader clicks on it."""
    return HTML(f"<details><summary>{summary}</summary>{table.to_html()}</details>")
