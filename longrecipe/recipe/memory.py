"""Whether stage 1 of a run fits into memory, and what it needs, before any work."""

import psutil
import torch

from longrecipe import cost
from longrecipe.cost import GB
from longrecipe.recipe import disk, preflight
from longrecipe.settings import Params
from longrecipe.system.processes import n_processes
from longrecipe.train.memory import rows_at_once, setup_of


def check_memory(p: Params, *, gpu_gb: float | None = None, host_gb: float | None = None) -> str:
    """Describe what stage 1 needs: memory, tokens, FLOPs and disk, all modelled.

    gpu_gb: memory of one GPU, GB; None means the GPU of this machine. If it has none, GPU memory is not checked.
    host_gb: memory of the host, GB; None means this machine's.
    Raises cost.DoesNotFitError, with settings that would fit, and ValueError for a model that the recipe cannot extend.
    """
    # First, because the cost of a model that the recipe cannot extend is not defined.
    config, setup = preflight.check_config(p), setup_of(p)
    rows = rows_at_once(p, p.extend_batch_size)
    if gpu_gb is None and torch.cuda.is_available():
        gpu_gb = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GB
    host_bytes = psutil.virtual_memory().total if host_gb is None else host_gb * GB
    if gpu_gb is None:
        need = cost.training_memory(config, p.train_length, setup, batch_size=rows)
    else:
        need = cost.check_fits(
            config,
            p.train_length,
            gpu_bytes=gpu_gb * GB,
            host_bytes=host_bytes / n_processes(),
            setup=setup,
            batch_size=rows,
        )
    n_tokens = p.extend_steps * p.extend_batch_size * p.train_length
    flops = cost.training_flops(config, n_tokens, p.train_length)
    sizes = need.gigabytes()
    limit = "no GPU here, so not checked" if gpu_gb is None else f"of {gpu_gb:.0f}"
    return (
        f"modelled: {sizes['peak']:.1f} GB on a GPU ({limit}), {sizes['host']:.1f} GB of the host's memory; stage 1: "
        f"{n_tokens / 1e6:,.0f}M tokens in samples of {p.train_length:,}, {flops:.2e} FLOPs; "
        f"{disk.disk_need(p, config) / GB:,.1f} GB on disk"
    )
