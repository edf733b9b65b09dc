"""Figures of models and training: RoPE wavelengths, losses, recall, and scores after each stage."""

import itertools
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from transformers import PreTrainedConfig

from longrecipe.evaluate import Report
from longrecipe.models import rope
from longrecipe.plots.drawing import depth_heatmap
from longrecipe.plots.style import STYLE, colour
from longrecipe.train import Trained


def pretraining(log: pd.DataFrame) -> Figure:
    """Training of a mini model: accuracy on key-value pairs (phase A), and loss on text with facts (phase B)."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8, 2.7))
        for pairs, rows in log.query("phase == 'A'").groupby("pairs"):
            left.plot(rows.index + 1, rows["accuracy"], label=f"{pairs:.0f} pairs")
        left.set(xlabel="optimizer step", ylabel="recall of pairs (running mean)", title="Phase A: pairs")
        left.legend(fontsize=7)
        for length, rows in log.query("phase == 'B'").groupby("length"):
            right.plot(rows.index + 1, rows["loss"].rolling(9, 1).mean(), label=f"{length:.0f} tokens")
        right.set(xlabel="optimizer step", ylabel="cross-entropy, nats per token", title="Phase B: text with facts")
        right.legend(fontsize=7, title="window", title_fontsize=7)
    return figure


def wavelengths(config: PreTrainedConfig, target_length: int) -> Figure:
    """RoPE wavelength of each pair of dimensions, before and after the base is raised for target_length tokens."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.5, 2.8))
        for name, each in {"base": config, "RoPE rule alone": rope.extend_config(config, target_length)}.items():
            theta = rope.rope_theta(each)
            label = f"{name}, RoPE base {theta:,.0f}"
            axis.plot(rope.wavelengths(theta, rope.head_dim(each)), "o-", ms=3, color=colour(name), label=label)
        for length, name in ((config.max_position_embeddings, "base window"), (target_length, "target")):
            axis.axhline(length, color="black", lw=0.8, ls="--")
            axis.annotate(f"{name}, {length} tokens", (0, length), (0, 2), textcoords="offset points", fontsize=7)
        axis.set(yscale="log", xlabel="pair of dimensions of a head", ylabel="wavelength, tokens")
        axis.legend(fontsize=7, loc="lower right")
    return figure


def losses(stages: Mapping[str, Trained]) -> Figure:
    """Training loss by step, a panel for each stage, by its name in style.STAGES. Includes the KL term of replay."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(stages), figsize=(3.1 * len(stages), 2.6), sharey=True, squeeze=False)
        for axis, (name, stage) in zip(axes[0], stages.items(), strict=True):
            steps = np.arange(1, len(stage.losses) + 1)
            axis.plot(steps, stage.losses, color=colour(name), lw=0.8, alpha=0.6)
            axis.plot(steps, pd.Series(stage.losses).rolling(9, 1, center=True).mean(), color=colour(name), lw=2)
            axis.set(xlabel="optimizer step", title=f"{name}: {stage.n_tokens / 1e3:,.0f}k tokens")
        axes[0, 0].set_ylabel("training loss, nats per token")
    return figure


def recall_heatmaps(reports: Mapping[str, Report], n_depths: int = 5) -> Figure:
    """A heatmap for each model: recall of one of the hidden facts by text length and depth."""
    edges = np.linspace(0, 1, n_depths + 1)
    labels = [f"{low:.0%} to {high:.0%}" for low, high in itertools.pairwise(edges)]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(
            1, len(reports), figsize=(1.2 + 2.05 * len(reports), 2.6), sharey=True, squeeze=False
        )
        for axis, (name, report) in zip(axes[0], reports.items(), strict=True):
            rows = report.recall.assign(bin=pd.cut(report.recall["depth"], edges, labels=labels, include_lowest=True))
            table = rows.pivot_table(index="bin", columns="length", values="score", observed=False)
            depth_heatmap(axis, table, name)
            axis.title.set_color(colour(name))
        axes[0, 0].set_ylabel("depth of the fact")
        bar = figure.colorbar(axes[0, -1].collections[0], ax=axes[0].tolist(), pad=0.01, fraction=0.02)
        bar.set_label("recall")
    return figure


def passkeys(numbers: Mapping[str, Mapping], window: int) -> Figure:
    """Passkey recall by text length, with 95 % intervals, from `Report.numbers()` of each stage."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.2, 2.9))
        for i, (stage, measured) in enumerate(numbers.items()):
            cells = {n: tasks["passkey"] for n, tasks in measured["tasks"].items() if "passkey" in tasks}
            # Shifted sideways, so that equal scores do not hide each other.
            x = np.array(list(cells)) * 1.02 ** (i - (len(numbers) - 1) / 2)
            mean, low, high = (np.array([each[key] for each in cells.values()]) for key in ("mean", "low", "high"))
            axis.errorbar(
                x, mean, [mean - low, high - mean], fmt="o-", ms=4, capsize=2, color=colour(stage), label=stage
            )
        axis.axvline(window, color="black", lw=0.8, ls="--")
        axis.annotate("base window", (window, 1.08), (-3, 0), textcoords="offset points", fontsize=7, ha="right")
        axis.set(xscale="log", xlabel="text length, tokens", ylabel="passkey recall", ylim=(-0.05, 1.15))
        axis.set_xticks(list(cells), [f"{n:,}" for n in cells])
        axis.minorticks_off()
        axis.legend(fontsize=7, loc="lower left")
    return figure


def retention(numbers: Mapping[str, Mapping]) -> Figure:
    """Scores on long and short text after each stage, from `Report.numbers()` of each stage."""
    first = next(iter(numbers.values()))
    window, target = min(first["recall"]), max(first["recall"])
    panels = [
        (f"recall at {target} tokens", lambda m: m["recall"][target]),
        (f"NIAH(M) at {target} tokens", lambda m: m["niah_m"][target]),
        (f"recall at {window} tokens", lambda m: m["recall"][window]),
        (f"perplexity at {window} tokens", lambda m: {"mean": m["perplexity"]}),
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(panels), figsize=(10.5, 2.7))
        for axis, (title, pick) in zip(axes, panels, strict=True):
            for i, (stage, measured) in enumerate(numbers.items()):
                value = pick(measured)
                error = [[value["mean"] - value["low"]], [value["high"] - value["mean"]]] if "low" in value else None
                axis.bar(i, value["mean"], color=colour(stage), yerr=error, capsize=2, error_kw={"lw": 0.9})
                text = f"{value['mean']:.2f}" if error else f"{value['mean']:.1f}"
                top = (i, value.get("high", value["mean"]))
                axis.annotate(text, top, (0, 2), textcoords="offset points", ha="center", fontsize=7)
            axis.set_xticks(range(len(numbers)), list(numbers), rotation=35, ha="right")
            axis.set_title(title)
            axis.grid(axis="x", visible=False)
            axis.margins(y=0.12)
    return figure
