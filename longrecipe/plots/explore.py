"""Controls to play with in JupyterLab; papermill, nbval and GitHub show the same figure, still."""

import os
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def live() -> bool:
    """Whether a person is at the notebook: its kernel was started by a Jupyter server, not by papermill or nbval."""
    return "JPY_SESSION_NAME" in os.environ


def interact(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show the figure that draw(**values) makes, in JupyterLab with a control for each value.

    controls: name = an ipywidgets control; its value at first is what is shown where nobody is there to move it.
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
