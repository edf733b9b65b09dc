"""Seconds per step of the mini models: measured, modelled, in percent of FLT's, and their figure."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from longrecipe import cost, models
from longrecipe.cost.cases import RATIO
from longrecipe.experiments.scores import NAMES
from longrecipe.experiments.table4.figures import length_ticks
from longrecipe.experiments.table4.tables import METHODS
from longrecipe.plots import STYLE, WIDTH_INCHES, colour, describe, label_ends, marker
from longrecipe.settings.memory import Setup


def mini_steps(record: Mapping | None) -> pd.DataFrame:
    """Seconds of mini Llama-3's steps by method and target: measured, and modelled by the rates of the same machine.

    Columns: method (as tables name it), target, n, measured, modelled (`cost.step_seconds`), GFLOP (of the model).
    """
    rows = []
    for case in record["cases"].values() if record else ():
        if (case["model"], case["ratio"]) != ("llama3", RATIO) or "error" in case["measured"]:
            continue
        config, n, batch = models.config_of(case["model"]), case["n_tokens"], case["batch_size"]
        step = cost.step_seconds(config, n, cost.device_of(record), setup=Setup(**case["setup"]), batch_size=batch)
        flops = cost.training_flops(config, n * batch, n) / 1e9
        found = case["measured"]["seconds_per_step"]
        rows.append((NAMES.get(case["method"], case["method"]), case["target_length"], n, found, step.total, flops))
    return pd.DataFrame(rows, columns=["method", "target", "n", "measured", "modelled", "GFLOP"])


def mini_ratios(steps: pd.DataFrame) -> pd.DataFrame:
    """Each method's seconds over FLT's by target, from `mini_steps`: measured, and for LongRecipe as the time model and
    FLOPs alone have it; then what the model leaves out: measured over modelled seconds of FLT and LongRecipe."""
    by = steps.pivot(index="target", columns="method", values=["measured", "modelled", "GFLOP"])
    there = set(steps["method"]) if "FLT" in set(steps["method"]) else set()
    short = [NAMES[name] for name in METHODS if name != "flt" and NAMES[name] in there]
    table = {f"{name} / FLT, measured": by["measured", name] / by["measured", "FLT"] for name in short}
    if "LongRecipe" in short:
        table["LongRecipe / FLT, time model"] = by["modelled", "LongRecipe"] / by["modelled", "FLT"]
        table["LongRecipe / FLT, FLOPs"] = by["GFLOP", "LongRecipe"] / by["GFLOP", "FLT"]
        for name in ("FLT", "LongRecipe"):
            table[f"{name}, measured / modelled"] = by["measured", name] / by["modelled", name]
    return pd.DataFrame(table)


def step_times(steps: pd.DataFrame, ratios: pd.DataFrame) -> Figure:
    """Seconds per step of the mini by target, measured (points) and modelled (dashed), and the ratio of short to whole.

    Args:
        steps: of `experiments.table4.mini_steps`; if empty, the figure says "not measured".
        ratios: of `experiments.table4.mini_ratios`.
    """
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 3.2))
        ends: tuple[list, list] = ([], [])
        for name, rows in steps.groupby("method", sort=False):
            rows = rows.sort_values("target")
            left.plot(rows["target"], rows["measured"], marker=marker(name), ms=4, lw=1.2, color=colour(name))
            ends[0].append((*rows[["target", "measured"]].iloc[-1], name, colour(name)))
            if name in ("FLT", "LongRecipe"):
                left.plot(rows["target"], rows["modelled"], "--", lw=1.2, color=colour(name))
        for column in [column for column in ratios if " / FLT" in column]:
            name, _, source = column.partition(" / FLT, ")
            style, shade = {"measured": "-", "time model": "--", "FLOPs": ":"}[source], colour(name)
            known = 100 * ratios[column].dropna()
            shape = marker(name) if source == "measured" else None
            right.plot(known.index, known, style, marker=shape, ms=4, lw=1.2, color=shade)
            ends[1].append((known.index[-1], known.iloc[-1], name if source == "measured" else source, shade))
        for axis, title in ((left, "seconds per step of 8 samples"), (right, "percent of FLT's seconds")):
            axis.set_title(title, fontsize=8.5)
            axis.set_xlabel("target, tokens")
            if len(steps):
                length_ticks(axis, steps["target"])
            else:
                axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes)
        left.set_yscale("log")
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_minor_formatter("")
        if len(ratios):
            right.set_ylim(0, 110 * float(np.nanmax(ratios.filter(like=" / FLT").to_numpy())))
        drawn = "Two panels over the target length: seconds per step, measured (points) and modelled (dashed), and "
        drawn += "seconds in percent of FLT's, measured, by the time model (dashed) and by FLOPs alone (dotted)."
        describe(figure, drawn, _steps_title(ratios))
        for axis, end in zip((left, right), ends, strict=True):
            label_ends(axis, end)
    return figure


def _steps_title(ratios: pd.DataFrame) -> str:
    column = "LongRecipe / FLT, measured"
    known = ratios[column].dropna() if column in ratios else pd.Series(dtype=float)
    if known.empty:
        return ""
    target = 4096 if 4096 in known.index else known.index[-1]
    return f"To {target:,} tokens, a step of LongRecipe takes {known[target]:.1%} of FLT's seconds (measured)"
