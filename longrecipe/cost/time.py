"""The time of training, from its operations and data transfers and the rates of a device."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from transformers import PreTrainedConfig

from longrecipe.cost.flops import counts, flops_per_token
from longrecipe.cost.memory import GB, OPTIMIZER_BYTES, training_memory
from longrecipe.cost.traffic import traffic_bytes
from longrecipe.settings.memory import Setup


@dataclass(frozen=True)
class Device:
    """A device: its memory in bytes, its rates in FLOP/s and its bandwidths in bytes per second.

    peak_flops: dense peak from the datasheet, for MFU; matmul_flops, attention_flops: rates that training reaches;
    bandwidth: of its own memory; host_bandwidth: to the host's memory. measured: whether the rates were measured.
    """

    name: str
    memory_bytes: float
    peak_flops: float
    matmul_flops: float
    attention_flops: float
    bandwidth: float
    host_bandwidth: float
    measured: bool = False


def _assumed(name: str, *, gibibytes: float, peak: float, attention: float, bandwidth: float, host: float) -> Device:
    # Large bfloat16 products reach 70 % of the peak; attention is the share of the best public kernels.
    return Device(name, gibibytes * 2**30, peak, 0.7 * peak, attention * peak, bandwidth, host)


# Memory as reported by the driver, peak and bandwidth from NVIDIA's datasheets; shares of the peak are assumptions.
# Attention: 0.55 of A100's peak in both passes (Dao 2023, arXiv 2307.08691), 0.5 of H100's (Shah et al. 2024, arXiv
# 2407.08608).
DEVICES = {
    device.name: device
    for device in (
        _assumed("RTX 4090 24 GB", gibibytes=23.5, peak=165e12, attention=0.55, bandwidth=1.01e12, host=25e9),
        _assumed("A100 40 GB", gibibytes=39.4, peak=312e12, attention=0.55, bandwidth=1.56e12, host=25e9),
        _assumed("A100 80 GB", gibibytes=79.2, peak=312e12, attention=0.55, bandwidth=2.04e12, host=25e9),
        _assumed("H100 80 GB", gibibytes=79.1, peak=989e12, attention=0.5, bandwidth=3.35e12, host=50e9),
    )
}


def device_of(record: Mapping) -> Device:
    """The Device of a record of `longrecipe.cost.measure.run`, with the rates measured on it.

    The peak is NaN, as it is not measured (so there is no MFU). A CPU has infinite memory and host bandwidth.
    """
    rates, memory = record["rates"], record.get("memory_gb", math.inf) * GB
    host = rates.get("host_bandwidth", math.inf)
    reached = rates["matmul_flops"], rates["attention_flops"], rates["bandwidth"]
    return Device(record["device"], memory, math.nan, *reached, host, measured=True)


@dataclass(frozen=True)
class Seconds:
    """Seconds of a training step: matrix products, attention, memory traffic of activations, offloading, optimizer."""

    linear: float
    attention: float
    traffic: float
    offload: float
    optimizer: float

    @property
    def total(self) -> float:
        """The sum; the model assumes no overlap."""
        return sum(getattr(self, field.name) for field in fields(self))


def step_seconds(
    config: PreTrainedConfig,
    n_tokens: int,
    device: Device,
    *,
    setup: Setup | None = None,
    batch_size: int = 1,
    batches: int = 1,
) -> Seconds:
    r"""Modelled seconds of one optimizer step on samples of n tokens.

    linear and attention: FLOPs (`flops_per_token`, with recomputation) over the rates of the device; attention is not
    computed again if its outputs are kept. traffic: `traffic_bytes` over the bandwidth. offload: offloaded inputs are
    copied twice, over the host bandwidth. optimizer: reads and writes weights, gradients and moments once per step.

    Args: batch_size: samples at a time; batches: of this size in a step.
    """
    setup, c = setup or Setup(), config.get_text_config()
    here = n_tokens * batch_size * batches / setup.sequence_parallel
    one = flops_per_token(c, n_tokens, setup.checkpointing)
    of_attention = one.attention / 3 if setup.checkpointing else 0.0
    linear_again, attention_again = one.recompute - of_attention, 0.0 if setup.keep_attention else of_attention
    kept = 0.0
    if setup.offload_activations:
        inputs = replace(setup, offload_activations=False, keep_attention=False)
        kept = training_memory(c, n_tokens, inputs, batch_size=batch_size).checkpoints
    states = 2 * OPTIMIZER_BYTES[setup.optimizer] + (14.0 if setup.fp32_weights else 6.0)
    return Seconds(
        linear=(one.linear + one.head + linear_again) * here / device.matmul_flops,
        attention=(one.attention + attention_again) * here / device.attention_flops,
        traffic=traffic_bytes(c, n_tokens, setup, rows=batch_size, batches=batches) / device.bandwidth,
        offload=2 * kept * batches / device.host_bandwidth,
        optimizer=states * counts(c).total / setup.shards / device.bandwidth,
    )


def mfu(config: PreTrainedConfig, n_tokens: int, device: Device, *, seconds: float, n_gpus: int = 1) -> float:
    """Model FLOPs utilisation: FLOPs of a sample of n tokens over the peak FLOPs in these seconds, from 0 to 1.

    Recomputation does not count (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """
    return flops_per_token(config, n_tokens).model * n_tokens / (seconds * n_gpus * device.peak_flops)
