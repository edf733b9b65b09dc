"""Measured steps of the mini models next to the modelled ones, and the paper's claims about cost."""

from collections.abc import Mapping, Sequence

import pandas as pd

from longrecipe import cost, models
from longrecipe.cost import DEVICES, GB
from longrecipe.cost.measure import RATIO
from longrecipe.cost.question import Question
from longrecipe.cost.record import NOT_MEASURED, OUT_OF_MEMORY, measured_cell
from longrecipe.experiments import quoted
from longrecipe.experiments.scores import NAMES
from longrecipe.experiments.table4.tables import METHODS, ratios, table_4
from longrecipe.families import FAMILIES
from longrecipe.settings.memory import Setup

# The target at which the time model is judged, and how far it may be off.
JUDGED_AT, WITHIN = 4096, 0.15


def mini_steps(record: Mapping | None) -> pd.DataFrame:
    """Seconds of mini Llama-3's steps by method and target: measured, and modelled by the rates measured on the same machine.

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


def claims(question: Question, mini: Mapping | None = None, gpu: Mapping | None = None) -> pd.DataFrame:
    """The paper's claims about cost, and this kit's about its time model: label, claim with its numbers, verdict.

    mini, gpu: records of `longrecipe.cost.measure.run`. verdict: holds, DOES NOT HOLD, k of m hold, or not measured.
    "85 % less" is taken to the nearest percent; "one day" is 24 hours of stage 1, on as many GPUs as the line says.
    """
    rows = [*_saved(question), *_one_gpu(gpu), *_one_day(gpu), *_mini(mini)]
    table = pd.DataFrame([(label, claim, _verdict(oks)) for label, claim, oks in rows])
    return table.set_axis(["label", "claim", "verdict"], axis="columns")


def _verdict(oks: Sequence[bool]) -> str:
    if not oks:
        return NOT_MEASURED
    held = sum(map(bool, oks))
    return {len(oks): "holds", 0: "DOES NOT HOLD"}.get(held, f"{held} of {len(oks)} hold")


def _less(ratio: float) -> bool:
    return round(100 * (1 - ratio)) >= 85


def _percent(ratios: pd.Series) -> str:
    return ", ".join(f"{name} {100 * (1 - ratio):.1f}" for name, ratio in ratios.items()) + " %"


def _saved(question: Question) -> list[tuple]:
    rows, table = [], ratios(question)
    for (target, n), group in table.groupby(["target", "n"], sort=False):
        shares = group["FLOPs"].droplevel(["target", "n"])
        claim = f"85 % fewer FLOPs than FLT, {n:,} of {target:,} tokens: {_percent(shares)}"
        rows.append(("modelled", claim, [_less(share) for share in shares]))
    shares = table["hours"].xs((question.target_length, question.short), level=("target", "n"))
    claim = f"85 % fewer hours than FLT on {question.gpu}, {question.target_length:,} tokens: {_percent(shares)}"
    return [*rows, ("modelled", claim, [_less(share) for share in shares])]


def _one_gpu(gpu: Mapping | None) -> list[tuple]:
    room, table = DEVICES["H100 80 GB"].memory_bytes, quoted.read("table4_resources")
    asked = {"model": "llama3", "scale": "paper", "method": "longrecipe", "target_length": 131072}
    found = measured_cell(gpu, "peak_gb", Setup(), **asked)
    peaks = {n: cost.training_memory(models.config_of(n, "paper"), 38400).peak for n in FAMILIES}
    ours = ", ".join(f"{name} {peak / GB:.0f}" for name, peak in peaks.items())
    theirs = [f"{r.model} {r.target_k}k {r.gpu_memory_gb} GB on {r.gpus}" for r in table.itertuples()]
    known = not isinstance(found, str)
    found_text = f": peak of {found:.0f} GB on {gpu['device']}" if known else f": {found}" * (found != NOT_MEASURED)
    fits = [found * GB <= room] if known else [False] if found == OUT_OF_MEMORY else []
    return [
        ("modelled", f"one GPU of 80 GB for 128k: {ours} GB of {room / GB:.0f}", [x <= room for x in peaks.values()]),
        ("quoted", f"one GPU of 80 GB: {', '.join(theirs)}", list(table["gpus"] == 1)),
        ("measured", f"one GPU of 80 GB for 128k, llama3{found_text}", fits),
    ]


def _one_day(gpu: Mapping | None) -> list[tuple]:
    table, ours = quoted.read("table4_resources"), table_4(gpu).loc["hours"]
    rows = []
    for device, key in (("A800", "hours_a800"), ("H100", "hours_h100")):
        each = ", ".join(f"{r.model} {r.target_k}k {getattr(r, key)} h on {r.gpus}" for r in table.itertuples())
        rows.append(("quoted", f"one day, {device}: {each}", list(table[key] <= 24)))
        near = "A100" if device == "A800" else device
        took = ours.loc[f"modelled, {near}"]
        each = ", ".join(f"{name.replace(',', '')} {value:.0f} h" for name, value in took.items())
        rows.append(("modelled", f"one day, one {near}: {each}", list(took <= 24)))
    took = ours.iloc[-1]["llama3-8b, 128k"]
    known = not isinstance(took, str)
    took_text = f": {took:.0f} h on one {gpu['device']}" if known else f": {took}" * (took != NOT_MEASURED)
    return [*rows, ("measured", f"one day, llama3-8b 128k{took_text}", [took <= 24] if known else [])]


def _mini(mini: Mapping | None) -> list[tuple]:
    table, at = mini_ratios(mini_steps(mini)), f"{JUDGED_AT} tokens"
    less = f"85 % fewer seconds a step than FLT, mini, {at}"
    agrees = f"the time model has mini's LongRecipe / FLT within {WITHIN:.0%}, {at}"
    flops = f"FLOPs alone have it within {WITHIN:.0%}, {at}"
    every = f"and at every length (FLOPs for measured, within {WITHIN:.0%})"
    overhead = "what the time model leaves out weighs most on short samples (LongRecipe, measured / modelled seconds)"
    ours = table.filter(like="LongRecipe").dropna()
    if ours.empty or JUDGED_AT not in ours.index:
        return [("measured", claim, []) for claim in (less, agrees, flops, every, overhead)]
    found, modelled, counted = (
        table.loc[JUDGED_AT, f"LongRecipe / FLT, {x}"] for x in ("measured", "time model", "FLOPs")
    )
    pairs = table[["LongRecipe / FLT, FLOPs", "LongRecipe / FLT, measured"]].dropna()
    listed = ", ".join(f"{target}: {have:.3f} for {want:.3f}" for target, have, want in pairs.itertuples())
    left_out = ours["LongRecipe, measured / modelled"]
    first, last = left_out.iloc[0], left_out.iloc[-1]
    each = f"{first:.1f} at {left_out.index[0]}, {last:.1f} at {left_out.index[-1]}"
    return [
        ("measured", f"{less}: {1 - found:.1%}", [_less(found)]),
        ("measured", f"{agrees}: {modelled:.3f} for {found:.3f}", [abs(modelled / found - 1) <= WITHIN]),
        ("measured", f"{flops}: {counted:.3f} for {found:.3f}", [abs(counted / found - 1) <= WITHIN]),
        ("measured", f"{every}: {listed}", [abs(have / want - 1) <= WITHIN for _, have, want in pairs.itertuples()]),
        ("measured", f"{overhead}: {each}", [first > last]),
    ]
