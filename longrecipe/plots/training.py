"""Figures of models and training: RoPE wavelengths, losses, recall, and scores after each stage."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from transformers import PreTrainedConfig

from longrecipe.evaluate import Report
from longrecipe.models import rope
from longrecipe.plots.drawing import depth_heatmaps, depth_labels, describe, label_ends, nothing, points
from longrecipe.plots.style import STYLE, WIDTH_INCHES, colour, marker
from longrecipe.train import Trained

_STEPS, _LOSS = "optimizer step", "loss, nats per token"


def pretraining(log: pd.DataFrame) -> Figure:
    """Training of a mini model: accuracy on key-value pairs (phase A), and loss on text with facts (phase B)."""
    shades = plt.get_cmap("viridis")
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(WIDTH_INCHES, 2.9))
        groups = list(log.query("phase == 'A'").groupby("pairs"))
        for i, (pairs, rows) in enumerate(groups):
            left.plot(rows.index + 1, rows["accuracy"], color=shades(i / 4), label=f"{pairs:.0f} pairs")
        left.set(xlabel=_STEPS, ylabel="recall of pairs (running mean)", title="Phase A: pairs alone")
        left.legend()
        for i, (length, rows) in enumerate(log.query("phase == 'B'").groupby("length")):
            smooth = rows["loss"].rolling(9, 1).mean()
            right.plot(rows.index + 1, smooth, color=shades(i / 4), label=f"{length:.0f} tokens")
        right.set(xlabel=_STEPS, ylabel=_LOSS, title="Phase B: text with facts")
        right.legend(title="length of samples")
        steps, last = sum(len(rows) for _, rows in groups), log["loss"].tail(50).mean()
        describe(
            figure,
            "Left: recall of key-value pairs by step, for 2, 4, 8 and 16 pairs. Right: loss by step, for each length.",
            f"The model learns to recall pairs in {steps:,} steps; its loss on text then falls to {last:.2f}",
        )
    return figure


def wavelengths(config: PreTrainedConfig, target_length: int) -> Figure:
    """RoPE wavelength of each pair of dimensions, before and after the base is raised for target_length tokens."""
    window = config.max_position_embeddings
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.0))
        ends, found = [], {}
        for name, each in {"base": config, "RoPE rule alone": rope.extend_config(config, target_length)}.items():
            theta = rope.rope_theta(each)
            found[name] = rope.wavelengths(theta, rope.head_dim(each))
            axis.plot(found[name], marker=marker(name), ms=4, color=colour(name))
            ends.append((len(found[name]) - 1, found[name][-1], f"{name},\nRoPE base {theta:,.0f}", colour(name)))
        for length, name in ((window, "window of the base"), (target_length, "target")):
            axis.axhline(length, color="black", lw=0.8, ls="--")
            at = (len(found["base"]) - 1, length)
            axis.annotate(f"{name}, {length:,} tokens", at, (0, 3), textcoords="offset points", fontsize=8, ha="right")
        axis.set(yscale="log", xlabel="pair of dimensions of a head", ylabel="wavelength, tokens")
        slow, pairs = int((found["base"] > window).sum()), len(found["base"])
        slower = found["RoPE rule alone"][-1] / found["base"][-1]
        describe(
            figure,
            "Wavelength of each pair of dimensions, on a logarithmic axis, with the RoPE base as it is and raised.",
            f"In {window:,} tokens, {slow} of {pairs} pairs do not complete a turn; the raised RoPE base slows them, "
            f"the slowest {slower:,.0f} times",
        )
        label_ends(axis, ends)
    return figure


def losses(stages: Mapping[str, Trained]) -> Figure:
    """Training loss by step, a panel for each stage, at most three; a note if no stage was trained.

    Loss includes loss weights, and the terms of replay that compare with the original model.
    """
    if not stages:
        return nothing("No stage was trained, so there is no loss.")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(stages), figsize=(WIDTH_INCHES, 2.7), sharey=True, squeeze=False)
        for axis, (name, stage) in zip(axes[0], stages.items(), strict=True):
            steps, smooth = np.arange(1, len(stage.losses) + 1), _smooth(stage.losses)
            axis.plot(steps, stage.losses, color=colour(name), lw=0.8, alpha=0.5)
            axis.plot(steps, smooth, color=colour(name), lw=2)
            axis.set(xlabel=_STEPS, title=f"{name}:\n{stage.n_tokens / 1e3:,.0f}k tokens")
        axes[0, 0].set_ylabel(_LOSS)
        changes = [
            f"{name} from {smooth[0]:.2f} to {smooth[-1]:.2f}"
            for name, smooth in ((name, _smooth(stage.losses)) for name, stage in stages.items())
        ]
        describe(
            figure,
            "Training loss by optimizer step, a panel for each stage; the thick line is a running mean.",
            f"Loss (running mean): {'; '.join(changes)}",
        )
    return figure


def _smooth(values: list[float]) -> np.ndarray:
    return pd.Series(values).rolling(9, 1, center=True).mean().to_numpy()


def recall_heatmaps(reports: Mapping[str, Report], n_depths: int = 5) -> Figure:
    """A heatmap for each model, three in a row: recall of one of the hidden facts by text length and depth."""
    edges, labels, tables = np.linspace(0, 1, n_depths + 1), depth_labels(n_depths), {}
    lengths = sorted({n for report in reports.values() for n in report.recall["length"]})
    for name, report in reports.items():
        rows = report.recall.assign(bin=pd.cut(report.recall["depth"], edges, labels=labels, include_lowest=True))
        found = rows.pivot_table(index="bin", columns="length", values="score", observed=False)
        tables[name] = found.reindex(columns=lengths)
    figure = depth_heatmaps(tables)
    describe(
        figure,
        "Heatmaps of recall by text length (columns) and by the depth of the fact in the text (rows).",
        _of_recall(reports, lengths[-1]),
    )
    return figure


def _of_recall(reports: Mapping[str, Report], length: int) -> str:
    """What recall at the longest text shows: of the best model that is not the base, and of the base."""
    recall = {name: each.recall_at(length) for name, each in reports.items() if (each.recall["length"] == length).any()}
    told = "nothing" if recall.get("base") == 0 else f"{recall.get('base', 0):.2f}"
    others = [name for name in ("merged", "RoPE rule alone") if name in recall] or [n for n in recall if n != "base"]
    if not others:
        name, report = next(iter(reports.items()))
        short = int(report.recall["length"].min())
        return f"{name}: recall {report.recall_at(short):.2f} at {short:,} tokens, {recall[name]:.2f} at {length:,}"
    found = _recalled(others[0], recall[others[0]], length)
    return f"{found}; the base recalls {told}" if "base" in recall else found


def _recalled(name: str, recall: float, length: int) -> str:
    return f"{name[0].upper()}{name[1:]}: recall {recall:.2f} at {length:,} tokens"


def loss_by_position(table: pd.DataFrame, window: int) -> Figure:
    """Loss by position in long text of each model, with intervals over documents; a note if nothing was read.

    Args:
        table: of `evaluate.loss_by_position`.
        window: W in tokens, marked by a line.
    """
    if table.empty:
        return nothing("No long document was read, so there is no loss by position.")
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.4))
        ends = []
        for name, rows in table.groupby("model", sort=False):
            # The middle of each bin on the logarithmic axis; the first bin starts at 0.
            x = np.sqrt(rows["start"].clip(lower=rows["end"].iloc[0] / 4) * rows["end"])
            found = rows.rename(columns={"loss": "mean"})
            points(axis, x, found, color=colour(name), fmt=f"{marker(name)}-", ms=4, lw=1.2)
            ends.append((x.iloc[-1], rows["loss"].iloc[-1], f"{name}: {rows['loss'].iloc[-1]:.2f}", colour(name)))
        axis.axvline(window, color="black", lw=0.8, ls="--")
        axis.annotate(
            "base window",
            (window, 1),
            (3, -3),
            textcoords="offset points",
            xycoords=("data", "axes fraction"),
            size=8,
            va="top",
        )
        axis.set(xscale="log", xlabel="position in the text, tokens", ylabel="loss, nats per token")
        # The window doubled, again and again.
        shares = table["end"].unique() / window
        ticks = [int(window * share) for share in shares if share >= 1 and np.log2(share).is_integer()]
        axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axis.minorticks_off()
        last = table[table["end"] == table["end"].max()].set_index("model")["loss"]
        told = [name for name in ("merged", "RoPE rule alone", "base") if name in last.index]
        told = told if told and len(last) > 3 else list(last.index)
        title = f"Loss in the last positions: {', '.join(f'{last[name]:.2f} {name}' for name in told)}"
        describe(figure, f"Loss by position, with intervals, for {', '.join(last.index)}.", title)
        label_ends(axis, ends)
    return figure


def passkeys(numbers: Mapping[str, Mapping], window: int) -> Figure:
    """Passkey recall by text length, with 95 % intervals, from `Report.numbers()` of each stage."""
    lengths = sorted({n for each in numbers.values() for n, tasks in each["tasks"].items() if "passkey" in tasks})
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(WIDTH_INCHES, 3.0))
        ends = []
        for i, (stage, measured) in enumerate(numbers.items()):
            cells = {n: tasks["passkey"] for n, tasks in measured["tasks"].items() if "passkey" in tasks}
            # Shifted sideways, so that equal scores do not hide each other.
            x = np.array(list(cells)) * 1.02 ** (i - (len(numbers) - 1) / 2)
            mean, low, high = (np.array([each[key] for each in cells.values()]) for key in ("mean", "low", "high"))
            style = {"fmt": f"{marker(stage)}-", "ms": 5, "capsize": 2, "color": colour(stage), "label": stage}
            axis.errorbar(x, mean, [mean - low, high - mean], **style)
            ends.append((x[-1], mean[-1], f"{stage}: {mean[-1]:.2f}", colour(stage)))
        axis.axvline(window, color="black", lw=0.8, ls="--")
        axis.annotate("base window", (window, 1.08), (-3, 0), textcoords="offset points", fontsize=8, ha="right")
        axis.set(xscale="log", xlabel="text length, tokens", ylabel="passkey recall", ylim=(-0.05, 1.15))
        axis.set_xticks(lengths, [f"{n:,}" for n in lengths])
        axis.minorticks_off()
        told = ", ".join(text for x, _, text, _ in ends if x > 0.9 * lengths[-1])
        describe(
            figure, "Passkey recall by text length, with intervals.", f"Passkeys at {lengths[-1]:,} tokens: {told}"
        )
        label_ends(axis, ends)
    return figure


def retention(numbers: Mapping[str, Mapping], needles: str = "NIAH(M)") -> Figure:
    """Scores on long and short text after each stage, from `Report.numbers()` of each stage.

    needles: the title of the mean of the needle tasks, see `results.needles_title`.
    """
    lengths = {n for measured in numbers.values() for n in measured["recall"]}
    window, target = min(lengths), max(lengths)
    panels: list[tuple[str, Callable[[Mapping], Mapping | None]]] = [
        (f"recall at {target:,} tokens", lambda m: m["recall"].get(target)),
        (f"{needles} at {target:,} tokens", lambda m: m["niah_m"].get(target)),
        (f"recall at {window:,} tokens", lambda m: m["recall"][window]),
        (f"perplexity at {window:,} tokens (lower is better)", lambda m: {"mean": m["perplexity"]}),
    ]
    with plt.rc_context(STYLE):
        size = (WIDTH_INCHES, 0.44 * len(numbers) + 2.2)
        figure, axes = plt.subplots(2, 2, figsize=size, sharey=True, squeeze=False)
        for axis, (title, pick) in zip(axes.flat, panels, strict=True):
            _bars(axis, {stage: pick(measured) for stage, measured in numbers.items()})
            axis.set_title(title, loc="left")
        axes[0, 0].invert_yaxis()
        describe(
            figure,
            f"Bars with intervals for each stage: recall and {needles} on long text, recall and perplexity on short "
            "text.",
            _of_retention(numbers, window, target),
        )
    return figure


def _bars(axis: Axes, values: Mapping[str, Mapping | None]) -> None:
    for i, (stage, value) in enumerate(values.items()):
        if value is None:
            axis.annotate("not measured", (0, i), (4, 0), textcoords="offset points", va="center", fontsize=8)
            continue
        mean = value["mean"]
        error = [[mean - value["low"]], [value["high"] - mean]] if "low" in value else None
        axis.barh(i, mean, color=colour(stage), xerr=error, capsize=2, error_kw={"lw": 0.9, "ecolor": "#555555"})
        text = f"{mean:.2f}" if error else f"{mean:.1f}"
        end = (value.get("high", mean), i)
        axis.annotate(text, end, (4, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(values)), list(values))
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.16)
    axis.set_xlim(left=0)


def _of_retention(numbers: Mapping[str, Mapping], window: int, target: int) -> str:
    """What was gained and kept, of the merged model, or of the last stage if nothing was merged."""
    name = "merged" if "merged" in numbers else list(numbers)[-1]
    ours = numbers[name]
    found = _recalled(name, ours["recall"][target]["mean"], target)
    if name == "base" or "base" not in numbers:
        return found
    base = numbers["base"]
    told = f" (base {base['recall'][target]['mean']:.2f})" if target in base["recall"] else ""
    return f"{found}{told}; perplexity {ours['perplexity']:.1f} at {window:,} (base {base['perplexity']:.1f})"
