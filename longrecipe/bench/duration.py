"""How long benchmarks take, modelled: from the number and length of their prompts and the rates of a device."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedConfig

from longrecipe.bench.ruler import RULER
from longrecipe.bench.suites import MOST, SUITES, to_run
from longrecipe.cost import Device, cached_width, counts, flops_per_token
from longrecipe.evaluate.reader import BATCH_TOKENS as READ_TOKENS

# A pass through the model takes at least this long, whatever its size: the time to start its kernels.
_LEAST_SECONDS = 0.02
# Tokens of prompts that are continued at a time, by kind of device. On a CPU, all weights are read from its slow memory
# for each token, so more prompts should share them.
BATCH_TOKENS = {"cuda": 16_384, "cpu": 49_152}


def expected_prompts(suites: Sequence[str], lengths: Sequence[int], limit: int | None) -> list[tuple[int, int, int]]:
    """How many prompts of suites there will be, with their tokens and generated tokens, without making them.

    Prompts have the length that was asked for; those of suites without lengths are of a typical one.
    """
    found = []
    for name in to_run(suites):
        suite = SUITES[name]
        if suite.by_length:
            answers = [RULER[task].generated if task in RULER else suite.answer for task in suite.tasks]
            found += [(min(limit or MOST, MOST), n, answer) for answer in answers for n in lengths]
        else:
            count = suite.n_prompts if limit is None else min(limit, suite.n_prompts)
            found.append((count * suite.n_tasks, suite.typical_tokens, suite.answer or suite.generated))
    return found


def seconds(
    config: PreTrainedConfig,
    device: Device,
    prompts: Iterable[tuple[int, int, int]],
    *,
    kind: str = "cuda",
    weight_bytes: int = 2,
) -> float:
    r"""Modelled seconds that a model takes for prompts, in batches of BATCH_TOKENS; answers are as long as they may be.

    Reading n tokens takes a third of training's FLOPs (`cost.flops_per_token`) over the rates of the device; only a
    prompt without an answer to generate computes the logits of all tokens. A prompt with an answer to generate is read
    alone (`evaluate.reader.read_apart`); each generated token then reads all weights once for a batch, and the n keys
    and values of each prompt: their bytes over the bandwidth, or the FLOPs if these take longer. Every pass takes at
    least 20 ms.

    Args:
        prompts: how many, tokens, and generated tokens of each kind.
        kind: of the device, cuda or cpu.
        weight_bytes: of a weight, a key or a value; 2 in bfloat16, 4 in float32.
    """
    c = config.get_text_config()
    weights = weight_bytes * counts(c).total
    width = cached_width(c) * weight_bytes
    total = 0.0
    for count, tokens, generated in prompts:
        batch = min(count, max(1, (BATCH_TOKENS[kind] if generated else READ_TOKENS) // (tokens + generated)))
        one = flops_per_token(c, tokens)
        linear = (one.linear if generated else one.linear + one.head) / 3 / device.matmul_flops
        read = tokens * (linear + one.attention / 3 / device.attention_flops)
        step = max((weights + batch * width * tokens) / device.bandwidth, batch * linear)
        passes = count if generated else count / batch
        total += max(passes * _LEAST_SECONDS, count * read) + count / batch * generated * max(_LEAST_SECONDS, step)
    return total
