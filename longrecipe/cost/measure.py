"""What `longrecipe cost` measures, in a process of its own: training steps, reading, a resume, and rates.

Models with the shapes of the paper have random weights, because time and memory do not depend on their values.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, TrainerCallback

from longrecipe import models, positions
from longrecipe.cost import GB
from longrecipe.cost.cases import Case, Measured, Reading, Resuming
from longrecipe.cost.record import OUT_OF_MEMORY
from longrecipe.data import samples
from longrecipe.evaluate.reader import Reader, to_read
from longrecipe.models.rope import extend_config, head_dim
from longrecipe.system.memory import peak_bytes
from longrecipe.train import Stage, Trained, latest_checkpoint, run_stage, weights_dtype
from longrecipe.train.trainer import stage_trainer

# Messages of PyTorch's CPU allocators if memory runs out, on Linux and macOS, and on Windows.
_NO_MEMORY = ("can't allocate memory", "not enough memory")
_KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
# Tokens that a model writes after it has read a text.
ANSWER = 16


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute with one thread of the CPU inside this block; on a machine with a GPU, with all threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if torch.cuda.is_available() else 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Watch(TrainerCallback):
    """Record the time at the end of each step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.ends.append(_now())

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(_now())


def measure(case: Measured) -> dict:
    """Measure a case. Returns its numbers with peak memory in GB, or `error`, which says that memory ran out.

    Training: a few steps; the seconds of the fastest, because other work on the machine only adds time. On a CPU one
    thread computes, so that the number of cores does not matter.
    """
    work = {Case: _train, Reading: _read, Resuming: _resume}[type(case)]
    try:
        with _one_thread(), tempfile.TemporaryDirectory() as folder:
            found = work(case, Path(folder))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(text in str(error) for text in _NO_MEMORY):
            raise
        return {"error": f"{OUT_OF_MEMORY}: {str(error).split('.')[0]}"}
    found["host_peak_gb"] = peak_bytes() / GB
    if torch.cuda.is_available():
        found["peak_gb"] = torch.cuda.max_memory_allocated() / GB
        found["reserved_gb"] = torch.cuda.max_memory_reserved() / GB
    return found


def _train(case: Case, folder: Path) -> dict:
    watch, stage = _Watch(), _stage(case, options={"save_strategy": "no"})
    collator = samples.Collator(positions.METHODS[case.method], case.target_length, seed=0)
    trainer = stage_trainer(_network(case), _dataset(case, folder), collator, stage=stage, folder=folder / "run")
    trainer.add_callback(watch)
    trainer.train()
    seconds = float(np.diff(watch.ends)[1:].min())
    return {"seconds_per_step": seconds, "tokens_per_second": case.n_tokens * case.batch_size / seconds}


@torch.no_grad()
def _read(case: Reading, folder: Path) -> dict:
    """Read a text of n tokens and write an answer, as `evaluate` does."""
    network = to_read(_network(case))
    ids = np.random.default_rng(0).integers(0, network.config.vocab_size, (1, case.n_tokens))
    # Once before, on a short text, so that the time has no loading of kernels.
    Reader(network, ids[:, :64]).generate(ids[:, :8], 1)
    start = _now()
    reader = Reader(network, ids)
    read = _now()
    reader.generate(ids[:, :8], ANSWER)
    return {"seconds": read - start, "answer_seconds": _now() - read}


def _resume(case: Resuming, folder: Path) -> dict:
    """Train a stage without interruption, then again in a process that is killed after its first checkpoint, and resume
    there. Returns where it resumed, and the largest differences of the losses: of all steps, and of those before."""
    dataset = _dataset(case, folder)
    whole = train_stage(case, dataset, folder / "whole")
    job = json.dumps(asdict(case) | {"kind": "killed", "folder": str(folder)})
    words = [sys.executable, "-m", "longrecipe.cost._one_case", job]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    first = folder / "killed" / "checkpoints" / f"checkpoint-{case.save_steps}" / "trainer_state.json"
    while not first.is_file() and killed.poll() is None:
        time.sleep(0.01)
    killed.kill()
    _, said = killed.communicate()
    if latest_checkpoint(folder / "killed" / "checkpoints") is None:
        raise RuntimeError(f"the stage left no checkpoint: {said.decode(errors='replace')[-300:]}")
    resumed = train_stage(case, dataset, folder / "killed")
    differences = np.abs(np.subtract(whole.losses, resumed.losses))
    return {
        "resumed_from": resumed.resumed_from,
        "steps": case.steps,
        "largest_difference": float(differences.max()),
        # Two runs of the same steps: what the GPU's kernels change from run to run.
        "largest_difference_before": float(differences[: resumed.resumed_from].max()),
    }


@_one_thread()
def train_stage(case: Resuming, dataset: Dataset, folder: Path) -> Trained:
    """Train the stage of a case in a folder, or resume it there, as the recipe does."""
    collator = samples.Collator(positions.METHODS["longrecipe"], case.target_length, seed=0)
    stage = _stage(case, save_steps=case.save_steps)
    return run_stage(lambda: _network(case), dataset, collator, stage=stage, folder=folder)


def _stage(case: Case | Resuming, **changes) -> Stage:
    changes = {"save_steps": 10**6} | changes
    return Stage("measure", case.steps, case.batch_size, 5.0e-5, setup=case.setup, **changes)


def _network(case: Measured) -> PreTrainedModel:
    config = extend_config(case.config, max(case.target_length, 512))
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    with torch.device(models.device_kind()):
        return AutoModelForCausalLM.from_config(config, dtype=weights_dtype(case.setup))


def _dataset(case: Case | Resuming, folder: Path) -> Dataset:
    """Stored samples of random tokens, in sentences of 20."""
    rng, n = np.random.default_rng(0), case.n_tokens
    lengths = np.full(n // 20, 20)
    lengths = np.append(lengths, n - lengths.sum()) if n % 20 else lengths
    starts = np.concatenate([[0], lengths[:-1].cumsum()])
    made = ((rng.integers(0, case.config.vocab_size, n), lengths, starts) for _ in range(case.steps * case.batch_size))
    return samples.store(samples.rows_of(made), folder / "data")


def _now() -> float:
    """Seconds, once the GPU has done all that it was asked to."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@_one_thread()
def rates(config: PreTrainedConfig, length: int) -> dict[str, float | str]:
    """What this machine reaches at a model's own shapes, for `cost.Device`: FLOP/s of the MLP's product and of causal
    attention (both passes) for a sample of `length` tokens, the bandwidths of its memory and, on a GPU, to the host,
    bytes per second. A CPU computes with one thread. On a GPU also the FLOP/s of each attention kernel that PyTorch
    has, and the name of the one that it chooses."""
    c = config.get_text_config()
    device = models.device_kind()
    options = {"device": device, "dtype": models.autocast_dtype("auto", device)}
    a, b = (torch.randn(size, **options) for size in ((length, c.hidden_size), (c.hidden_size, c.intermediate_size)))
    found = {"matmul_flops": 2.0 * length * b.numel() / _fastest(lambda: a @ b)}
    heads, width = c.num_attention_heads, head_dim(c)
    q, k, v = (torch.randn(1, heads, length, width, requires_grad=True, **options) for _ in range(3))

    def attention() -> None:
        F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()

    flops = 6.0 * heads * width * length**2
    found["attention_flops"] = flops / _fastest(attention)
    # New memory would take longer: a CPU assigns its pages when they are first written.
    source, target = (torch.zeros(2**28, device=device, dtype=torch.uint8) for _ in range(2))
    found["bandwidth"] = 2.0 * source.numel() / _fastest(lambda: target.copy_(source))
    if device == "cuda":
        pinned = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
        found["host_bandwidth"] = source.numel() / _fastest(lambda: pinned.copy_(source))
        found["kernel"] = _slowest_kernel(attention)
        for name, backend in _KERNELS.items():
            with sdpa_kernel(backend):
                found[f"attention_flops, {name}"] = flops / _fastest(attention)
    return found


def _slowest_kernel(work) -> str:
    """The GPU kernel that takes the most time in a piece of work."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    return max(profile.key_averages(), key=lambda event: event.self_device_time_total).key[:200]


def _fastest(work, times: int = 5) -> float:
    best = float("inf")
    for _ in range(times + 1):
        start = _now()
        work()
        best = min(best, _now() - start)
    return best
