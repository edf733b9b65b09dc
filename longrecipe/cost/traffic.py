"""The bytes that a training step moves through the memory of the GPU, besides matrix products and attention."""

import math
from typing import NamedTuple

from transformers import PreTrainedConfig

from longrecipe.cost.flops import counts, key_value_heads, mlp_width
from longrecipe.models.rope import head_dim
from longrecipe.settings.memory import Setup


class _Block(NamedTuple):
    """Bytes per token that a block reads and writes, for each unit of its widths."""

    hidden: float
    queries: float
    keys: float
    mlp: float

    def of(self, config: PreTrainedConfig) -> float:
        c, d = config, head_dim(config)
        widths = c.hidden_size, c.num_attention_heads * d, key_value_heads(c) * d, mlp_width(c)
        return sum(rate * width for rate, width in zip(self, widths, strict=True))


# In both passes, and what checkpointing computes again: norms, rotation, SiLU, residuals. Every eager kernel reads its
# inputs and writes its output. A compiled block runs them as one kernel between two products.
_EAGER = _Block(298, 52, 52, 28), _Block(78, 20, 20, 10)
_EAGER_AUTOCAST = _Block(392, 94, 82, 28), _Block(96, 36, 30, 10)
_COMPILED = _Block(40, 8, 8, 16), _Block(12, 4, 4, 6)
_COMPILED_AUTOCAST = _Block(62, 8, 8, 16), _Block(18, 4, 4, 6)


def traffic_bytes(config: PreTrainedConfig, n_tokens: int, setup: Setup, *, rows: int = 1, batches: int = 1) -> float:
    r"""Bytes that are moved by a training step besides matrix products, attention and the optimizer.

    Eager kernels of a block, per token, in bfloat16: $298 H + 52 (h + k) d + 28 F$ in both passes, and with
    checkpointing $78 H + 20 (h + k) d + 10 F$ again. Compiled, $40 H + 8 (h + k) d + 16 F$ and $12 H + 4 (h + k) d +
    6 F$. Under autocast, norms and residuals are in float32, and each pass converts the weights. The loss moves 44
    bytes for each logit, and 64 if it is fused; then it also adds to the gradient of the head after each chunk.
    The gradients of the batches are added.

    Eager numbers are those of transformers' Llama, Mistral and Qwen2: `cost.trace` counts the same, up to terms that do
    not grow with H. Compiled ones follow from what the kernels must read and write.

    Args: config: H, h, k, d, F as in `activation_bytes`; n_tokens: of a sample; rows: samples at a time; batches: of
    this size in a step.
    """
    c, n = config.get_text_config(), n_tokens * rows / setup.sequence_parallel
    autocast, parameters = setup.fp32_weights, counts(c)
    if setup.compile:
        passes = _COMPILED_AUTOCAST if autocast else _COMPILED
    else:
        passes = _EAGER_AUTOCAST if autocast else _EAGER
    times = 2 if setup.checkpointing else 1
    moved = c.num_hidden_layers * sum(block.of(c) for block in passes[:times]) * n
    if autocast:
        moved += 6.0 * (1 + times) * parameters.blocks
    if setup.fused_loss:
        head = c.vocab_size * c.hidden_size * (10.0 * math.ceil(n / setup.loss_chunk) + 20.0)
        moved += (64.0 * c.vocab_size + 142.0 * c.hidden_size) * n + head
    else:
        moved += (44.0 * c.vocab_size + 132.0 * c.hidden_size) * n + 4.0 * c.vocab_size * c.hidden_size
    added = (12.0 if autocast else 6.0) * (batches - 1)
    if setup.fp32_accumulation:
        # The first gradient is converted to float32, the others are added to it, and the sum is converted back.
        added = 6.0 + 10.0 * (batches - 1) + 6.0
    return batches * moved + added * parameters.total / setup.shards
