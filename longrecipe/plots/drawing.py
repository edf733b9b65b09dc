"""Drawing that several figures share."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes


def points(axis: Axes, x: np.ndarray, found: pd.DataFrame, **style) -> None:
    """Draw means with their intervals on an axis.

    Args:
        x: a place for each row.
        found: the columns mean, low and high; rows without an interval have NaN.
        style: of `Axes.errorbar`.
    """
    mean, low, high = (found[kind].to_numpy(dtype=float) for kind in ("mean", "low", "high"))
    error = np.nan_to_num([mean - low, high - mean])
    axis.errorbar(x, mean, yerr=error, **{"fmt": "o", "ms": 5, "capsize": 2, "elinewidth": 0.9} | style)


def depth_heatmap(axis: Axes, table: pd.DataFrame, title: str) -> None:
    """Draw a heatmap of scores in 0..1 by depth (rows) and text length in tokens (columns) on an axis."""
    sns.heatmap(
        table, ax=axis, vmin=0, vmax=1, cmap="viridis", annot=True, fmt=".2f", cbar=False, annot_kws={"size": 7}
    )
    axis.set(title=title, xlabel="text length, tokens", ylabel="")
    axis.tick_params(length=0)
    axis.set_xticklabels(axis.get_xticklabels(), rotation=45)
