"""Interactive controls in JupyterLab; papermill, nbval and GitHub show a static figure."""

import os
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def live() -> bool:
    """Whether the notebook is used interactively: a Jupyter server started its kernel, not papermill or nbval."""
    return "JPY_SESSION_NAME" in os.environ


def interact(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show the figure of draw(**values), in JupyterLab with a control for each value.

    Args: controls: ipywidgets controls by name. Outside JupyterLab the figure is drawn with their initial values.
    """
    if not live():
        draw(**{name: control.value for name, control in controls.items()})
        plt.show()
        return
    import ipywidgets

    def redraw(**values: Any) -> None:
        draw(**values)
        plt.show()

    ipywidgets.interact(redraw, **controls)
