"""The paper's claims about cost, and this kit's about its time model."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pandas as pd

from longrecipe import cost, models
from longrecipe.claims import NOT_MEASURED, Claim, Claims, judge
from longrecipe.cost import DEVICES, GB
from longrecipe.cost.question import Question
from longrecipe.cost.record import OUT_OF_MEMORY, measured_cell
from longrecipe.experiments import quoted
from longrecipe.experiments.table4.measured import gpu_claims
from longrecipe.experiments.table4.steps import mini_ratios, mini_steps
from longrecipe.experiments.table4.tables import FAMILY_OF, TARGETS, ratios, table_4, title
from longrecipe.families import FAMILIES, OF_THE_PAPER
from longrecipe.settings.memory import Setup

# The target at which the time model is judged, and how far it may be off.
JUDGED_AT, WITHIN = 4096, 0.15
# The share of FLT's cost that the paper saves.
SAVED = 85


def claims(question: Question, mini: Mapping | None = None, gpu: Mapping | None = None) -> Claims:
    """The paper's claims about cost, and this kit's about its time model, each with the label of its number.

    mini, gpu: records of `longrecipe.cost.runner.run`. "85 % fewer" is to the nearest percent, "a day" is 24 hours of
    stage 1. Main claims are those about the model and target asked for; for memory and days, about it to 128k.
    """
    model = question.model if question.scale == "paper" and question.model in FAMILIES else "llama3"
    return Claims([*_saved(question), *_mini(mini), *_one_gpu(model, gpu), *_one_day(model, gpu), *gpu_claims(gpu)])


def _less(ratio: float) -> str:
    return judge(round(100 * (1 - ratio)) >= SAVED)


def _saved(question: Question) -> Iterator[Claim]:
    for (model, target, n), row in ratios(question).iterrows():
        asked = (target, n) == (question.target_length, question.short)
        where = f"{title(model, question.scale)}: {n:,} of {target:,} tokens take {SAVED} % fewer"
        flops = Claim(f"{where} FLOPs than all (FLT)", _less(row["FLOPs"]), f"{100 * (1 - row['FLOPs']):.1f} % fewer")
        yield replace(flops, main=asked and model == question.model, label="modelled")
        if asked:
            text, found = f"{where} hours on {question.gpu}", f"{100 * (1 - row['hours']):.0f} % fewer"
            yield Claim(text, _less(row["hours"]), found, main=False, label="modelled")


def _mini(mini: Mapping | None) -> Iterator[Claim]:
    table, at = mini_ratios(mini_steps(mini)), f"{JUDGED_AT:,} tokens"
    less = f"mini Llama-3: 30 % of {at} take {SAVED} % fewer seconds per step than all (FLT)"
    agrees = f"mini Llama-3, {at}: the time model gives LongRecipe / FLT within {WITHIN:.0%}"
    seconds = f"mini Llama-3: the time model is within {WITHIN:.0%} of every step measured"
    ours = table.filter(like="LongRecipe").dropna()
    if JUDGED_AT not in ours.index:
        for text in (less, agrees, seconds):
            yield Claim(text, NOT_MEASURED, main=text == less, label="measured")
        return
    share, modelled = (table.loc[JUDGED_AT, f"LongRecipe / FLT, {source}"] for source in ("measured", "time model"))
    yield Claim(less, _less(share), f"{100 * (1 - share):.1f} % fewer", label="measured")
    yield _near(agrees, modelled, share)
    for target, row in ours.iterrows():
        text = f"mini Llama-3, {target:,} tokens: FLOPs alone give LongRecipe / FLT within {WITHIN:.0%}"
        yield _near(text, row["LongRecipe / FLT, FLOPs"], row["LongRecipe / FLT, measured"])
    times = table.filter(like="measured / modelled").stack()
    found = f"measured / modelled seconds from {times.min():.2f} to {times.max():.2f}"
    yield Claim(seconds, judge((1 / times - 1).abs().max() <= WITHIN), found, main=False, label="measured")


def _near(text: str, have: float, measured: float) -> Claim:
    off = abs(have / measured - 1)
    found = f"{have:.3f} for {measured:.3f} measured, {off:.1%} off"
    return Claim(text, judge(off <= WITHIN), found, main=False, label="measured")


def _one_gpu(main: str, gpu: Mapping | None) -> Iterator[Claim]:
    room, rows = DEVICES["H100 80 GB"].memory_bytes, quoted.read("table4_resources")
    text = "{} to {}k trains on one GPU of 80 GB"
    for model in OF_THE_PAPER:
        peak = cost.training_memory(models.config_of(model, "paper"), 38400).peak
        found = f"{peak / GB:.0f} of {room / GB:.0f} GB"
        claim = text.format(title(model, "paper"), 128)
        yield Claim(claim, judge(peak <= room), found, main=model == main, label="modelled")
    for model, row in _quoted(rows):
        found = f"{row.gpu_memory_gb} GB on {_gpus(row.gpus)}"
        claim = text.format(title(model, "paper"), row.target_k)
        yield Claim(claim, judge(row.gpus == 1), found, main=(model, row.target_k) == (main, 128), label="quoted")
    peak, how = _shipped(gpu, "peak_gb", main)
    fits, found = NOT_MEASURED, "" if peak == NOT_MEASURED else str(peak)
    if peak == OUT_OF_MEMORY:
        fits = judge(False)
    elif not isinstance(peak, str):
        fits, found = judge(peak * GB <= room), f"{peak:.0f} GB on one {gpu['device']}, one sample a step{how}"
    yield Claim(text.format(title(main, "paper"), 128), fits, found, label="measured")


def _shipped(gpu: Mapping | None, key: str, model: str) -> tuple[float | str, str]:
    """What was measured to 128k in the setup of params/paper, which offloads activations, or else in the default one;
    and the setup in words."""
    asked = {"model": model, "scale": "paper", "method": "longrecipe", "target_length": TARGETS[128]}
    away = measured_cell(gpu, key, Setup(offload_activations=True), **asked)
    if away != NOT_MEASURED:
        return away, ", activations offloaded"
    return measured_cell(gpu, key, Setup(), **asked), ""


def _one_day(main: str, gpu: Mapping | None) -> Iterator[Claim]:
    rows, ours = quoted.read("table4_resources"), table_4().loc["hours"]
    for model, row in _quoted(rows):
        shown = (model, row.target_k) == (main, 128)
        text = f"{title(model, 'paper')} to {row.target_k}k takes at most a day on "
        for device, near in (("A800", "A100"), ("H100", "H100")):
            hours = getattr(row, f"hours_{device.lower()}")
            quote = Claim(text + device, judge(hours <= 24), f"{hours} h on {_gpus(row.gpus)}", label="quoted")
            modelled = ours.loc[f"modelled, {near}", f"{row.model}, {row.target_k}k"]
            yield replace(quote, main=shown)
            yield Claim(text + near, judge(modelled <= 24), f"{modelled:.0f} h on 1 GPU", main=shown, label="modelled")
        if shown:
            rate, how = _shipped(gpu, "tokens_per_second", main)
            known = not isinstance(rate, str)
            hours = 1e6 * row.total_tokens_m / rate / 3600 if known else None
            found = f"{hours:.0f} h on one {gpu['device']}{how}" if known else "" if rate == NOT_MEASURED else rate
            yield Claim(text + "one GPU", judge(hours <= 24 if known else None), found, label="measured")


def _quoted(rows: pd.DataFrame) -> Iterator[tuple]:
    """Rows of the paper's Table 4, each with the name of its family."""
    return ((FAMILY_OF[row.model], row) for row in rows.itertuples())


def _gpus(number: int) -> str:
    return f"{number} GPU{'s' * (number > 1)}"
