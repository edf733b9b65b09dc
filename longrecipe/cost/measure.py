"""Measure time and memory of training steps on this machine, with the Trainer that the recipe uses.

`longrecipe cost` runs this. Models with the shapes of the paper have random weights, because time and memory do not
depend on their values. Each case runs in a separate process, and its result is saved at once, so an interrupted run
resumes. A case that does not fit in memory counts as measured; one that failed for another reason is repeated.
"""

import json
import logging
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, PreTrainedConfig, TrainerCallback

from longrecipe import models, positions
from longrecipe.cost import GB
from longrecipe.cost.cases import Case
from longrecipe.cost.record import OUT_OF_MEMORY, read_measured
from longrecipe.data import samples
from longrecipe.models.rope import extend_config, head_dim
from longrecipe.system.files import write_text
from longrecipe.train import Stage, weights_dtype
from longrecipe.train.trainer import stage_trainer

log = logging.getLogger(__name__)
# Messages of PyTorch's CPU allocators if memory runs out, on Linux and macOS, and on Windows.
_NO_MEMORY = ("can't allocate memory", "not enough memory")


class CasesFailedError(RuntimeError):
    """Cases failed for other reasons than memory."""


class _Watch(TrainerCallback):
    """Record the time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def measure(case: Case) -> dict:
    """Train a few steps. Returns the seconds of the fastest step, tokens per second and peak memory in GB, or `error`.

    The fastest step, because other work on the machine only adds time. `error` says that memory ran out. On a CPU one
    thread computes, so that the number of cores does not matter.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = extend_config(models.config_of(case.model, case.scale), max(case.target_length, 512))
    config._attn_implementation = "sdpa"
    rng, n = np.random.default_rng(0), case.n_tokens
    lengths = np.full(n // 20, 20)
    lengths = np.append(lengths, n - lengths.sum()) if n % 20 else lengths
    starts = np.concatenate([[0], lengths[:-1].cumsum()])
    rows = samples.rows_of(
        (rng.integers(0, config.vocab_size, n), lengths, starts) for _ in range(case.steps * case.batch_size)
    )
    stage = Stage(
        "measure",
        case.steps,
        case.batch_size,
        5.0e-5,
        setup=case.setup,
        save_steps=10**6,
        options={"save_strategy": "no"},
    )
    watch = _Watch()
    try:
        with _one_thread(), tempfile.TemporaryDirectory() as folder:
            with torch.device(device):
                network = AutoModelForCausalLM.from_config(config, dtype=weights_dtype(case.setup))
            collator = samples.Collator(positions.METHODS[case.method], case.target_length, seed=0)
            dataset = samples.store(rows, Path(folder) / "data")
            trainer = stage_trainer(network, dataset, collator, stage=stage, folder=Path(folder) / "run")
            trainer.add_callback(watch)
            trainer.train()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(text in str(error) for text in _NO_MEMORY):
            raise
        return {"error": f"{OUT_OF_MEMORY}: {str(error).split('.')[0]}"}
    seconds = float(np.diff(watch.ends)[1:].min())
    found = {"seconds_per_step": seconds, "tokens_per_second": n * case.batch_size / seconds}
    found["host_peak_gb"] = _peak_bytes() / GB
    if device == "cuda":
        found["peak_gb"] = torch.cuda.max_memory_allocated() / GB
        found["reserved_gb"] = torch.cuda.max_memory_reserved() / GB
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread of the CPU inside this block; on a machine with a GPU, with all threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _peak_bytes() -> int:
    """The peak memory of this process in bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    # This module only exists on Unix, where psutil does not report a peak.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@_one_thread()
def rates(config: PreTrainedConfig, length: int) -> dict[str, float]:
    """What this machine reaches at a model's own shapes, for `cost.Device`: FLOP/s of the MLP's product and of causal
    attention (both passes) for a sample of `length` tokens, the bandwidths of its memory and, on a GPU, to the host,
    bytes per second. A CPU computes with one thread."""
    c = config.get_text_config()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = {"device": device, "dtype": models.autocast_dtype("auto", device)}
    a, b = (torch.randn(size, **options) for size in ((length, c.hidden_size), (c.hidden_size, c.intermediate_size)))
    found = {"matmul_flops": 2.0 * length * b.numel() / _fastest(lambda: a @ b)}
    heads, width = c.num_attention_heads, head_dim(c)
    q, k, v = (torch.randn(1, heads, length, width, requires_grad=True, **options) for _ in range(3))

    def attention() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    found["attention_flops"] = 6.0 * heads * width * length**2 / _fastest(attention)
    source = torch.empty(2**28, device=device, dtype=torch.uint8)
    found["bandwidth"] = 2.0 * source.numel() / _fastest(source.clone)
    if device == "cuda":
        pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        found["host_bandwidth"] = source.numel() / _fastest(lambda: pinned.copy_(source))
    return found


def _fastest(work, times: int = 5) -> float:
    best = float("inf")
    for _ in range(times + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def run(cases: Iterable[Case], path: Path, minutes: float) -> dict:
    """Measure all cases that are not in the file at path yet, each in a separate process, within the given minutes.

    Returns the record at path. Raises ValueError if the file is damaged or from another kind of machine, and
    CasesFailedError at the end if cases failed for other reasons than memory; these are not recorded.
    """
    start, failed = time.perf_counter(), {}
    record = read_measured(path) if path.is_file() else _machine() | {"rates": _rates(), "cases": {}}
    for key, value in _machine().items():
        if key in ("device", "threads") and record.get(key) != value:
            raise ValueError(
                f"{path} was measured with {key} {record.get(key)}, this is {value}, and times of different machines "
                "cannot be compared: choose another file with --out, or delete this one to measure all cases again."
            )
    for case in tqdm([case for case in cases if not _is_measured(record, case)], desc="measured"):
        left = 60 * minutes - (time.perf_counter() - start)
        if left < 60:
            log.warning("%s and later cases are left for another run: the time is up", case.name)
            break
        command = [sys.executable, "-m", "longrecipe.cost._one_case", json.dumps(asdict(case))]
        try:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", timeout=left)
        except subprocess.TimeoutExpired:
            log.warning("%s was stopped: the time is up", case.name)
            break
        try:
            found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
        except (ValueError, IndexError):
            found = None
        if not isinstance(found, dict):
            lines = done.stderr.strip().splitlines() or ["no message"]
            failed[case.name] = f"exit status {done.returncode}: {lines[-1][:300]}"
            log.warning("%s failed (%s)", case.name, failed[case.name])
            continue
        record["cases"][case.name] = asdict(case) | {"n_tokens": case.n_tokens, "measured": found}
        write_text(path, json.dumps(record, indent=1) + "\n")
    if failed:
        listed = "; ".join(f"{name} ({why})" for name, why in failed.items())
        raise CasesFailedError(f"{len(failed)} cases failed; the next run tries them again: {listed}")
    return record


def _is_measured(record: dict, case: Case) -> bool:
    """Whether a record has a result of a case: its numbers, or that it ran out of memory."""
    found = record["cases"].get(case.name, {}).get("measured", {"error": ""})
    return "error" not in found or OUT_OF_MEMORY in found["error"].lower()


def _machine() -> dict:
    about = {"label": "measured", "torch": torch.__version__, "python": platform.python_version()}
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        return about | {"device": card.name, "memory_gb": card.total_memory / GB}
    return about | {"device": platform.machine(), "threads": 1}


def _rates() -> dict[str, float]:
    on_gpu = torch.cuda.is_available()
    return rates(models.config_of("llama3", "paper" if on_gpu else "mini"), 32768 if on_gpu else 4096)
