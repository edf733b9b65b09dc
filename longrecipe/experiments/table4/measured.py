"""Tables of what `longrecipe cost gpu` measured, next to what the cost model says. Sizes in GB of 1e9 bytes."""

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from longrecipe import cost, models
from longrecipe.claims import NOT_MEASURED, Claim, judge
from longrecipe.cost import DEVICES, GB
from longrecipe.cost.question import Question
from longrecipe.cost.record import OUT_OF_MEMORY, measured_cell
from longrecipe.experiments import quoted
from longrecipe.experiments.table4.tables import title
from longrecipe.positions import find
from longrecipe.settings.memory import Setup

# How far modelled seconds and GB of a step may be from those measured.
SECONDS_WITHIN, GB_WITHIN = 0.15, 0.05
_NAMED = {
    "offload_activations": "activations offloaded",
    "fp32_accumulation": "float32 sums",
    "keep_attention": "attention kept",
    "compile": "blocks compiled",
}
_MEASURED = {
    "s": "seconds_per_step",
    "tokens/s": "tokens_per_second",
    "GB": "peak_gb",
    "reserved GB": "reserved_gb",
    "host GB": "host_peak_gb",
}
_COLUMNS = ["s", "modelled s", "tokens/s", "MFU", "GB", "modelled GB", "reserved GB", "host GB"]


def gpu_steps(record: Mapping | None) -> pd.DataFrame:
    """Training steps on a GPU: a row for each model, method, target, n (tokens of a sample) and setup.

    A step is one sample with an optimizer step of its own. Columns: s, the seconds measured, and modelled with the
    rates that were measured on the same GPU; MFU, by the datasheet's peak; GB, PyTorch's peak, measured, and modelled
    for one batch a step without CUDA's runtime; reserved GB, what PyTorch took from the GPU; host GB, the peak of the
    process. A case that did not fit has "out of memory" in s and GB.
    """
    rows = {}
    for case in (record or {}).get("cases", {}).values():
        found, n, setup = case["measured"], case["n_tokens"], Setup(**case["setup"])
        config, target = models.config_of(case["model"], case["scale"]), f"{case['target_length'] // 1024}k"
        need = cost.training_memory(config, n, setup, accumulated=False)
        row = {
            "modelled s": cost.step_seconds(config, n, cost.device_of(record), setup=setup).total,
            "modelled GB": need.allocated / GB,
        }
        if "error" in found:
            row |= dict.fromkeys(("s", "GB"), OUT_OF_MEMORY)
        else:
            row |= {column: found.get(key, math.nan) for column, key in _MEASURED.items()}
            row |= {"MFU": cost.mfu(config, n, _datasheet(record), seconds=row["s"])}
        rows[title(case["model"], case["scale"]), find(case["method"]).title, target, n, _changes(setup)] = row
    names = ["model", "method", "target", "n", "setup"]
    index = pd.MultiIndex.from_tuples(rows, names=names) if rows else pd.MultiIndex.from_arrays([[]] * 5, names=names)
    return pd.DataFrame(list(rows.values()), index=index, columns=_COLUMNS).sort_index(
        level=["model", "method"], sort_remaining=False, kind="stable", ascending=[True, False]
    )


def faster(question: Question, record: Mapping | None) -> pd.DataFrame:
    """Seconds of a training step of one sample by what takes them, for settings that take less time for more memory.

    Modelled with the rates that were measured on a GPU, or else those assumed for the GPU asked for. Columns: seconds
    of matrices, attention, other kernels (`cost.traffic_bytes`) and the optimizer; s, their sum; GB, the peak without
    CUDA's runtime; measured s.
    """
    device, n = cost.device_of(record) if record else question.device, question.n_tokens
    asked = {"model": question.model, "scale": question.scale, "n_tokens": n, "batch_size": 1}
    rows = {}
    for name, change in {"as set up": {}, **cost.FASTER}.items():
        setup = Setup(**change)
        spent = cost.step_seconds(question.config, n, device, setup=setup)
        rows[name] = {
            "matrices": spent.linear,
            "attention": spent.attention,
            "other kernels": spent.traffic,
            "optimizer": spent.optimizer,
            "s": spent.total,
            "GB": cost.training_memory(question.config, n, setup, accumulated=False).allocated / GB,
            "measured s": measured_cell(record, "seconds_per_step", setup, **asked),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setup")


def speeds(record: Mapping | None) -> pd.DataFrame:
    """Published speeds of training 7B and 8B models on long samples (quoted, results/published_speeds.csv), and ours of
    the model to 128k on one GPU (measured): tokens of a sample, tokens per second and GPU, and GB on a GPU."""
    table = quoted.published_speeds().rename(
        columns={"tokens_per_second": "tokens/s and GPU", "gpu_gb": "GB", "gpus": "GPUs", "gpu": "GPU"}
    )
    steps = gpu_steps(record).reset_index()
    ours = steps[(steps["model"] == title("llama3", "paper")) & (steps["target"] == "128k")]
    ours = ours[ours["setup"].isin(["as set up", "activations offloaded"])].rename(columns={"n": "tokens"})
    ours = ours.assign(project="longrecipe", GPUs=1, GPU="H100 80 GB", label="measured")
    ours["how"] = "full recomputation, 8-bit moments" + ours["setup"].map(lambda s: ", offload" if "off" in s else "")
    ours = ours.rename(columns={"tokens/s": "tokens/s and GPU"})
    columns = ["project", "model", "GPUs", "GPU", "tokens", "tokens/s and GPU", "GB", "how", "label"]
    return pd.concat([ours, table.assign(label="quoted")])[columns].set_index("project")


def gpu_rates(record: Mapping | None) -> pd.DataFrame:
    """What the GPU reached at the shapes of Llama-3-8B with 38,400 tokens: TFLOP/s and the share of the datasheet's
    peak, in percent, for matrix products and for attention by kernel (both passes). Empty if nothing was measured."""
    rates = (record or {}).get("rates", {})
    kernels = {name.partition(", ")[2]: name for name in rates if name.startswith("attention_flops, ")}
    names = {"matrix products": "matmul_flops", "attention, chosen by PyTorch": "attention_flops"}
    names |= {f"attention, {kernel}": name for kernel, name in kernels.items()}
    rows = {
        what: {"TFLOP/s": rates[name] / 1e12, "% of peak": 100 * rates[name] / _datasheet(record).peak_flops}
        for what, name in names.items()
        if name in rates
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["TFLOP/s", "% of peak"])


def gpu_readings(record: Mapping | None) -> pd.DataFrame:
    """How long a model takes to read a text of n tokens and to write an answer of 16 on a GPU, and the peak in GB."""
    rows = {
        (title(case["model"], case["scale"]), case["n_tokens"]): {
            "s to read": case["measured"].get("seconds", OUT_OF_MEMORY),
            "s to answer": case["measured"].get("answer_seconds", math.nan),
            "GB": case["measured"].get("peak_gb", math.nan),
        }
        for case in (record or {}).get("readings", {}).values()
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["s to read", "s to answer", "GB"])


def gpu_claims(record: Mapping | None) -> Iterator[Claim]:
    """Claims about the cost model, and about a resume, on a GPU."""
    steps = gpu_steps(record)
    known = steps[steps["s"].map(lambda value: not isinstance(value, str) and math.isfinite(value))]
    for what, unit, within in (("time", "s", SECONDS_WITHIN), ("memory", "GB", GB_WITHIN)):
        text = f"the {what} model, with rates measured on the GPU," if what == "time" else f"the {what} model"
        text += f" is within {within:.0%} of every step measured"
        if known.empty:
            yield Claim(text, NOT_MEASURED, main=False, label="measured")
            continue
        off = (known[f"modelled {unit}"] / known[unit] - 1).astype(float)
        found = f"from {off.min():+.1%} to {off.max():+.1%} in {len(off)} steps".replace("%", " %")
        yield Claim(text, judge(off.abs().max() <= within), found, main=False, label="measured")
    resumes = (record or {}).get("resumes", {}).values()
    text = "a stage that is killed on a GPU resumes with exactly the same losses"
    if not resumes:
        yield Claim(text, NOT_MEASURED, main=False, label="measured")
    for resumed in resumes:
        found = resumed["measured"]
        same = found["largest_difference"] == 0
        said = f"killed after step {found['resumed_from']} of {found['steps']}, largest difference "
        yield Claim(text, judge(same), f"{said}{found['largest_difference']:g}", main=False, label="measured")


def _datasheet(record: Mapping | None) -> cost.Device:
    """The Device of a record's GPU with the peak of its datasheet, NaN if it is none of `cost.DEVICES`."""
    device = cost.device_of(record)
    known = (each for name, each in DEVICES.items() if all(word in device.name for word in name.split()[:-2]))
    return next(known, device)


def _changes(setup: Setup) -> str:
    """How a setup differs from the default, in words."""
    changed = setup.changes(Setup())
    bits = {"adamw_bf16": "16", "adamw_fp32": "32", "adamw_4bit": "4"}.get(changed.pop("optimizer", None))
    words = [_NAMED.get(key, f"{key}={value}") for key, value in changed.items()]
    return ", ".join([*words, *([f"moments in {bits} bits"] if bits else [])]) or "as set up"
