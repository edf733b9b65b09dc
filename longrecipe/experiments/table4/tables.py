"""Tables of notebook 05: what the recipe costs, modelled, next to what was measured and to the paper's Table 4.

Modelled: `longrecipe.cost`, one sample at a time on one GPU. Measured: what `longrecipe cost` wrote;
if it has not run, a cell says "not measured". Sizes in GB of 1e9 bytes.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from numbers import Integral

import pandas as pd

from longrecipe import cost, models
from longrecipe.claims import NOT_MEASURED
from longrecipe.cost import DEVICES, GB, SAVINGS
from longrecipe.cost.question import Question
from longrecipe.cost.record import measured_cell
from longrecipe.cost.trace import trace
from longrecipe.experiments import quoted
from longrecipe.experiments.scores import NAMES
from longrecipe.families import FAMILIES
from longrecipe.settings.memory import Setup
from longrecipe.system.paths import split_revision

METHODS = ("flt", "longrecipe", "pose", "rpes")
CARDS = {"24 GB": DEVICES["RTX 4090 24 GB"], "40 GB": DEVICES["A100 40 GB"], "80 GB": DEVICES["H100 80 GB"]}
ALL_SAVINGS = Setup(optimizer="adamw_4bit", offload_activations=True, offload_optimizer=True)
# Parts of memory by their names in tables and figures; of block and logits the larger.
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "moments": "optimizer",
    "kept activations": "checkpoints",
    "block or logits": "block or logits",
    "CUDA": "runtime",
}
# Families by their names in the paper's Table 4.
FAMILY_OF = {family.table4: name for name, family in FAMILIES.items()}
# The paper's 80k and 128k tokens.
TARGETS = {80: 81920, 128: 131072}


def memory(question: Question, record: Mapping | None = None) -> pd.DataFrame:
    """GB at the peak of a step of many batches by content, modelled: a row for each of SAVINGS; and of a step of one
    batch, modelled and measured.

    Of block and logits the larger counts: they are never in memory together. For one batch, the runtime is left out,
    because PyTorch's peak does not have it. Measured is "too large to try" if the model says that the GPU of the
    record, or else the one asked for, has far too little memory (`cost.TRIED`).
    """
    rows, room = {}, (record or {}).get("memory_gb", question.device.memory_bytes / GB)
    for name, change in SAVINGS.items():
        setup = replace(Setup(), **change)
        asked = {"model": question.model, "scale": question.scale, "n_tokens": question.n_tokens, "batch_size": 1}
        row = cost.training_memory(question.config, question.n_tokens, setup).gigabytes()
        one = cost.training_memory(question.config, question.n_tokens, setup, accumulated=False)
        measured = measured_cell(record, "peak_gb", setup, **asked)
        if measured == NOT_MEASURED and one.peak / GB >= cost.TRIED * room:
            measured = "too large to try"
        row |= {"block or logits": max(row["block"], row["logits"])}
        rows[name] = {column: row[part] for column, part in PARTS.items()}
        rows[name] |= {"peak": row["peak"], "host": row["host"]}
        rows[name] |= {"peak, one batch": one.allocated / GB, "measured, one batch": measured}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setup")


def traces(question: Question) -> pd.DataFrame:
    """A step of two batches, traced (`cost.trace`) and modelled: GB at the peak without the runtime, and TB that
    kernels other than matrix products and attention move. The default setup of every family, and for the model asked
    for those of SAVINGS and one that keeps attention's outputs."""
    kept = "attention kept"
    setups = SAVINGS | {kept: cost.FASTER[kept]}
    rows, asked = {}, [(name, "as set up") for name in question.families if name != question.model]
    for model, name in [*((question.model, name) for name in setups), *asked]:
        config, setup = models.config_of(model, question.scale), replace(Setup(), **setups[name])
        traced = trace(config, question.n_tokens, setup)
        need = cost.training_memory(config, question.n_tokens, setup).allocated
        moved = cost.traffic_bytes(config, question.n_tokens, setup, batches=2)
        rows[model, name] = {
            "GB, traced": traced.peak / GB,
            "GB, modelled": need / GB,
            "modelled, % more": 100 * (need / traced.peak - 1),
            "TB moved, traced": traced.traffic / 1e12,
            "TB moved, modelled": moved / 1e12,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "setup"])


def table_4(record: Mapping | None = None) -> pd.DataFrame:
    """The paper's Table 4 (quoted) next to ours: a column for each of its rows, a line for each quantity and source.

    Ours: samples of its length, as many tokens, one sample at a time, on an A100 (the nearest to its A800) and an H100.
    The recipe sums the gradients of 96 batches; steps of one batch were measured (see `memory`).
    """
    columns, a100, h100 = {}, DEVICES["A100 80 GB"], DEVICES["H100 80 GB"]
    for row in quoted.read("table4_resources").itertuples():
        model, n = FAMILY_OF[row.model], row.train_length
        config = models.config_of(model, "paper")
        asked = {"model": model, "method": "longrecipe", "target_length": TARGETS[row.target_k], "scale": "paper"}
        peak, rate = (measured_cell(record, key, Setup(), **asked) for key in ("peak_gb", "tokens_per_second"))
        here, away = (cost.training_memory(config, n, Setup(offload_activations=x)) for x in (False, True))
        one = cost.training_memory(config, n, accumulated=False)
        tokens = 1e6 * row.total_tokens_m
        took = rate if isinstance(rate, str) else tokens / rate / 3600
        on = f"measured, {record['device']}" if record else "measured"
        cells = {
            ("GPUs", "quoted"): row.gpus,
            ("GPUs", "modelled, 80 GB"): cost.gpus_needed(config, n, h100),
            ("GPU memory, GB", "quoted"): row.gpu_memory_gb,
            ("GPU memory, GB", "modelled"): here.peak / GB,
            ("GPU memory, GB", "modelled, offloaded"): away.peak / GB,
            ("GPU memory, GB", "modelled, one batch"): one.allocated / GB,
            ("GPU memory, GB", f"{on}, one batch"): peak,
            ("CPU memory, GB", "quoted"): row.cpu_memory_gb,
            ("CPU memory, GB", "modelled"): here.host / GB,
            ("CPU memory, GB", "modelled, offloaded"): away.host / GB,
            ("hours", "quoted, A800"): row.hours_a800,
            ("hours", "modelled, A100"): cost.gpu_hours(config, n, tokens / n, device=a100),
            ("hours", "quoted, H100"): row.hours_h100,
            ("hours", "modelled, H100"): cost.gpu_hours(config, n, tokens / n, device=h100),
            ("hours", on): took,
        }
        # A series of objects, in which whole numbers stay whole.
        columns[f"{row.model}, {row.target_k}k"] = pd.Series(cells, dtype=object)
    return pd.DataFrame(columns).rename_axis(["", "source"])


def title(model: str, scale: str) -> str:
    """A model in words, such as Llama-3-8B."""
    if scale != "paper" or model not in FAMILIES:
        return f"{scale} {model}"
    name = split_revision(FAMILIES[model].hub_id)[0].split("/")[-1]
    return name.removeprefix("Meta-").removesuffix("-Instruct")


def by_length(question: Question, model: str | None = None) -> pd.DataFrame:
    """Cost of one training sample over targets, from the window to eight times the target: of FLT and at the ratio.

    Columns: target, sample ("FLT" or the ratio's percentage), n (tokens), PFLOP by part (linear, attention, head,
    recompute), PFLOP (what the model needs), hours (stage 1 on the GPU asked for).
    """
    config, rows = models.config_of(model or question.model, question.scale), []
    window, T = config.get_text_config().max_position_embeddings, question.target_length
    targets = {window * 2**k for k in range(24) if window * 2**k <= 8 * T} | {T}
    for target in sorted(targets):
        for sample, n in (("FLT", target), (f"{question.ratio:.0%}", int(question.ratio * target))):
            flops = cost.flops_per_token(config, n, checkpointing=True) * n
            parts = {key: value / 1e15 for key, value in asdict(flops).items()}
            spent = {
                "PFLOP": flops.model / 1e15,
                "hours": cost.gpu_hours(config, n, question.n_samples, device=question.device),
            }
            rows.append({"target": target, "sample": sample, "n": n} | parts | spent)
    return pd.DataFrame(rows)


def ratios(question: Question) -> pd.DataFrame:
    """A sample at the ratio over a whole one (FLT): in FLOPs of the model, with those of recompute, in modelled hours.

    Rows: every family at the target; at scale paper also at 80k and 128k, and Table 4's own 38,400 tokens of 131,072.
    """
    papers = question.scale == "paper"
    targets = sorted({question.target_length, *(TARGETS.values() if papers else ())})
    sizes = [(T, int(question.ratio * T)) for T in targets] + ([(131072, 38400)] if papers else [])
    rows = {}
    for name in question.families:
        config = models.config_of(name, question.scale)
        for T, n in dict.fromkeys(sizes):
            short, whole = (cost.flops_per_token(config, length, checkpointing=True) * length for length in (n, T))
            spent = [cost.step_seconds(config, length, question.device, batches=cost.BATCH).total for length in (n, T)]
            rows[name, T, n] = {
                "FLOPs": short.model / whole.model,
                "FLOPs with recompute": short.total / whole.total,
                "hours": spent[0] / spent[1],
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "target", "n"])


def prices(question: Question) -> pd.DataFrame:
    """Stage 1 of each method on the GPU asked for, modelled: tokens, GPUs that hold it, GPU-hours, USD, MFU."""
    rows = {}
    for method in dict.fromkeys([*METHODS, question.method]):
        n = question.tokens_of(method)
        spent = cost.gpu_hours(question.config, n, question.n_samples, device=question.device)
        seconds = 3600 * spent / question.n_samples
        rows[NAMES.get(method, method)] = {
            "tokens, M": round(n * question.n_samples / 1e6),
            "GPUs needed": cost.gpus_needed(question.config, n, question.device),
            "GPU-hours": spent,
            "USD": spent * question.price_per_gpu_hour,
            "MFU": cost.mfu(question.config, n, question.device, seconds=seconds),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def longest(question: Question, gpu_gb: float | None = None) -> pd.DataFrame:
    """The longest sample on cards of 24, 40 and 80 GB, tokens, modelled, and the target that it makes at the ratio.

    As set up by default, and with all savings: 4-bit moments, activations and moments in the host's memory. NaN: not
    even 1,024 tokens fit.

    Args:
        gpu_gb: GB of 1e9 bytes of one card, instead of the three.
    """
    cards, rows = CARDS, {}
    if gpu_gb is not None:
        cards = {f"{gpu_gb:.0f} GB": replace(question.device, memory_bytes=gpu_gb * GB)}
    for name in question.families:
        config = models.config_of(name, question.scale)
        for card, device in cards.items():
            room, row = {"gpu_bytes": device.memory_bytes, "host_bytes": question.host_gb * GB}, {}
            for key, setup in {"as set up": Setup(), "all savings": ALL_SAVINGS}.items():
                n = cost.longest_sample(config, **room, setup=setup) or math.nan
                row |= {f"sample, {key}": n, f"target at {question.ratio:.0%}, {key}": n / question.ratio}
            needed = cost.gpus_needed(config, question.n_tokens, device)
            rows[name, card] = row | {f"GPUs needed, T = {question.target_length:,}": needed}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["model", "card"])


def shown(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table as a notebook shows it, with its numbers as `rounded`."""
    return table.map(lambda cell: cell if isinstance(cell, str) else rounded(cell, digits))


def rounded(value: float, digits: int = 2) -> str:
    """A number in significant digits, without an exponent; integers and 0 are exact, NaN (does not fit) is a dash.

    >>> rounded(1716.2), rounded(0.1538), rounded(15.02, 3), rounded(1280), rounded(math.nan)
    ('1,700', '0.15', '15.0', '1,280', '–')
    """
    if math.isnan(value):
        return "–"
    if isinstance(value, Integral) or not value:
        return f"{value:,.0f}"
    near = float(f"{value:.{digits}g}")
    places = max(0, digits - 1 - math.floor(math.log10(abs(near))))
    return f"{near:,.{places}f}"
