"""How long training takes, from what it computes and moves and from a device's rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from longrecipe.cost.flops import counts, flops_per_token
from longrecipe.cost.memory import GB, OPTIMIZER_BYTES, activation_bytes, training_memory
from longrecipe.settings.memory import Setup


@dataclass(frozen=True)
class Device:
    """What a device holds and achieves: its memory, its rates in matrix products and in attention, its bandwidths.

    peak_flops: the datasheet's, dense, for MFU; matmul_flops and attention_flops: what training reaches, a second;
    bandwidth of its own memory and host_bandwidth to the host's, bytes a second. measured: whether the rates were.
    """

    name: str
    memory_bytes: float
    peak_flops: float
    matmul_flops: float
    attention_flops: float
    bandwidth: float
    host_bandwidth: float
    measured: bool = False


def _assumed(name: str, gibibytes: float, peak: float, attention: float, bandwidth: float, host: float) -> Device:
    # 70 % of the peak is what large bfloat16 products reach; attention's share is that of the best public kernels.
    return Device(name, gibibytes * 2**30, peak, 0.7 * peak, attention * peak, bandwidth, host)


# Memory as the driver reports it, peak and bandwidth by NVIDIA's datasheets; shares of the peak are assumptions.
# Attention: 0.55 of A100's peak in both passes (Dao 2023, arXiv 2307.08691), 0.5 of H100's (Shah et al. 2024, arXiv
# 2407.08608).
DEVICES = {
    device.name: device
    for device in (
        _assumed("RTX 4090 24 GB", 23.5, 165e12, 0.55, 1.01e12, 25e9),
        _assumed("A100 40 GB", 39.4, 312e12, 0.55, 1.56e12, 25e9),
        _assumed("A100 80 GB", 79.2, 312e12, 0.55, 2.04e12, 25e9),
        _assumed("H100 80 GB", 79.1, 989e12, 0.5, 3.35e12, 50e9),
    )
}


def device_of(record: Mapping) -> Device:
    """The Device of the machine that a record of `longrecipe.cost.measure.run` was measured on, by its measured rates.

    What is not measured: the peak is not a number (no MFU); a CPU's memory and bandwidth to the host are infinite.
    """
    rates, memory = record["rates"], record.get("memory_gb", math.inf) * GB
    host = rates.get("host_bandwidth", math.inf)
    reached = rates["matmul_flops"], rates["attention_flops"], rates["bandwidth"]
    return Device(record["device"], memory, math.nan, *reached, host, measured=True)


@dataclass(frozen=True)
class Seconds:
    """Seconds of a training step, by what they are spent on: matrix products, attention, reading and writing
    activations, copies to and from the host, the optimizer."""

    linear: float
    attention: float
    traffic: float
    offload: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of them: nothing is taken to overlap."""
        return sum(getattr(self, field.name) for field in fields(self))


def step_seconds(
    config: Any, n_tokens: int, device: Device, setup: Setup | None = None, batch_size: int = 1, batches: int = 1
) -> Seconds:
    r"""Modelled seconds of one optimizer step on samples of n tokens.

    FLOPs (`flops_per_token`, what is recomputed with them) over the device's rates; elementwise work, which moves every
    activation four times (written and read in both passes; a fifth time where recomputed): $5 L n$ times
    `activation_bytes` over the bandwidth; offloaded inputs twice over the host's bandwidth; the optimizer reads and
    writes weights, gradients and moments once a step.

    Args: batch_size samples at a time, batches of them in a step.
    """
    setup, c = setup or Setup(), config.get_text_config()
    here = n_tokens * batch_size * batches / setup.sequence_parallel
    one = flops_per_token(c, n_tokens)
    again = 4 / 3 if setup.checkpointing else 1.0
    moved = (5.0 if setup.checkpointing else 4.0) * c.num_hidden_layers * activation_bytes(c)
    kept = training_memory(c, n_tokens, setup, batch_size=batch_size).host if setup.offload_activations else 0.0
    states = 2 * OPTIMIZER_BYTES[setup.optimizer] + (14.0 if setup.fp32_weights else 6.0)
    return Seconds(
        linear=(one.linear * again + one.head) * here / device.matmul_flops,
        attention=one.attention * again * here / device.attention_flops,
        traffic=moved * here / device.bandwidth,
        offload=2 * kept * batches / device.host_bandwidth,
        optimizer=states * counts(c).total / setup.shards / device.bandwidth,
    )


def mfu(config: Any, n_tokens: int, device: Device, seconds: float, n_gpus: int = 1) -> float:
    """Model FLOPs utilisation: what the model needs for a sample of n tokens, over what the peak would do in seconds
    (Chowdhery et al. 2022, arXiv 2204.02311, appendix B). In 0..1; what is recomputed does not count."""
    return flops_per_token(config, n_tokens).model * n_tokens / (seconds * n_gpus * device.peak_flops)
