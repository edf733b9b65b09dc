"""The memory of training by content, from the configuration of a transformer."""

import math
from dataclasses import dataclass, fields, replace

from transformers import PreTrainedConfig

from longrecipe.cost.flops import counts, key_value_heads, mlp_width
from longrecipe.models.rope import head_dim
from longrecipe.settings.memory import Setup

# Bytes per parameter of Adam's two moments. In low-bit optimizers, each block of values has a float32 scale.
OPTIMIZER_BYTES = {
    "adamw_fp32": 8.0,
    "adamw_bf16": 4.0,
    "adamw_8bit": 2 * (1 + 4 / 256),
    "adamw_4bit": 2 * (0.5 + 4 / 128),
}
GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a training step, by content, and bytes of host memory.

    weights; gradients; optimizer: its moments; checkpoints: inputs of all blocks, or all activations if nothing is
    recomputed; block: activations and gradients of the current block; logits: with their gradients; runtime: CUDA's
    context and libraries, and gaps of the allocator; host: the host memory. The peak includes either block or logits.
    """

    weights: float
    gradients: float
    optimizer: float
    checkpoints: float
    block: float
    logits: float
    runtime: float
    host: float

    @property
    def peak(self) -> float:
        """Bytes on the GPU at the peak; the current block and the logits are never in memory together."""
        lasting = self.weights + self.gradients + self.optimizer + self.checkpoints + self.runtime
        return lasting + max(self.block, self.logits)

    @property
    def allocated(self) -> float:
        """The part of the peak that PyTorch allocates and reports: all but the runtime."""
        return self.peak - self.runtime

    def gigabytes(self) -> dict[str, float]:
        """Every part and the peak in GB (1e9 bytes)."""
        return {f.name: getattr(self, f.name) / GB for f in fields(self)} | {"peak": self.peak / GB}


def activation_bytes(config: PreTrainedConfig) -> float:
    r"""Bytes of activations per token that one block keeps for its backward pass, in bfloat16 without recomputation.

    $16 H + 4 h d + 4 k d + 4 h + 8 F + 8$. The two norms keep 8 H + 4 each: their input in float32, its scale, the
    normalised input, and the output, which the matrices keep. Attention keeps queries, output, keys, values and
    log-sums. The MLP keeps four tensors of its width: gate, SiLU of it, up, and their product. These are the tensors
    that autograd keeps in transformers' Llama, Mistral and Qwen2 with SDPA or flash attention; Korthikanti et al.
    (2022, arXiv 2205.05198) do the same for GPT.

    Args: config: H hidden size, h heads and k key-value heads of width d, F width of the MLP.
    """
    c = config.get_text_config()
    d, h, k = head_dim(c), c.num_attention_heads, key_value_heads(c)
    return 16.0 * c.hidden_size + 4.0 * h * d + 4.0 * k * d + 4.0 * h + 8.0 * mlp_width(c) + 8.0


def training_memory(
    config: PreTrainedConfig,
    n_tokens: int,
    setup: Setup | None = None,
    *,
    batch_size: int = 1,
    accumulated: bool = True,
) -> Memory:
    r"""Memory of one GPU that trains all weights of a model on samples of n tokens.

    With N parameters, B samples at a time, s shards and p sequence shards, in bytes: weights 2 N / s (6 N / s in mixed
    precision); gradients 2 N / s (4 N / s in float32); optimizer as its moments need; checkpoints $2 L H n B / p$, or
    $4 L H n B$ in mixed precision on one GPU, and $(2 d + 4) L h n B / p$ for outputs of attention; block:
    `activation_bytes`, plus gradients at its widest point, in the MLP: those of gate, up and their product instead of
    the product itself, and that of the output ($4 F + 2 H$), and with split samples the keys and values of all parts
    with their gradients ($8 k d$ per token of the sample); logits: without the fused loss V in bfloat16, twice in
    float32 (upcast, softmax), and the gradient, 12 V per token; with it V in bfloat16 and float32, 6 V per token of one
    chunk, the head's gradient in float32, 4 V H, and the gradient of the last hidden states, 2 H per token. Sharded
    weights are gathered for two blocks at a time, as the next block is prefetched. PyTorch rounds each offloaded input
    up to a power of two. `cost.trace` checks all this on real shapes.

    If a step has one batch, the backward pass makes the gradients while it frees the kept inputs. The peak is at its
    start, with all inputs and the gradient of the head, or at its end, with one input and all gradients but that of
    the embeddings.

    Args: n_tokens: of one sample; setup: None means the defaults of Setup; batch_size: samples at a time; accumulated:
    whether gradients of an earlier batch of the step are in memory.
    """
    setup, c, n = setup or Setup(), config.get_text_config(), counts(config)
    here = n_tokens * batch_size / setup.sequence_parallel
    per_block = n.blocks / c.num_hidden_layers
    gathered = 0.0 if setup.shards == 1 else 2 * 2.0 * per_block + 2.0 * n.embeddings
    # Under autocast the inputs of blocks are float32, and FSDP2's mixed precision makes them bfloat16.
    wide = 4.0 if setup.fp32_weights and setup.shards == 1 else 2.0
    kept = wide * c.hidden_size if setup.checkpointing else activation_bytes(c)
    outputs = c.num_attention_heads * (2.0 * head_dim(c) + 4.0) if setup.keep_attention else 0.0
    checkpoints = c.num_hidden_layers * (kept + outputs) * here
    # If they are offloaded, one input is being copied from the host.
    on_gpu = (kept + c.num_hidden_layers * outputs) * here if setup.offload_activations else checkpoints
    per_weight = 4.0 if setup.fp32_weights or setup.fp32_accumulation else 2.0
    gradients = per_weight * n.total / setup.shards
    if not accumulated:
        of_head = per_weight * (n.own_head or n.embeddings) / setup.shards
        of_embeddings = per_weight * n.embeddings / setup.shards if n.own_head else 0.0
        ends = (gradients - of_embeddings, (kept + outputs) * here), (of_head, on_gpu)
        gradients, on_gpu = max(ends, key=sum)
    width = 4.0 * mlp_width(c) + 2.0 * c.hidden_size
    block = (activation_bytes(c) if setup.checkpointing else 0.0) * here + width * here
    if setup.sequence_parallel > 1:
        block += 8.0 * key_value_heads(c) * head_dim(c) * n_tokens * batch_size
    logits = 12.0 * c.vocab_size * here
    if setup.fused_loss:
        of_head, of_hidden = 4.0 * c.vocab_size * c.hidden_size, 2.0 * c.hidden_size * here
        logits = 6.0 * c.vocab_size * min(here, setup.loss_chunk) + of_head + of_hidden
    moments = OPTIMIZER_BYTES[setup.optimizer] * n.total / setup.shards
    pinned = c.num_hidden_layers * 2.0 ** math.ceil(math.log2(kept * here))
    return Memory(
        weights=(6.0 if setup.fp32_weights else 2.0) * n.total / setup.shards + gathered,
        gradients=gradients,
        optimizer=0.0 if setup.offload_optimizer else moments,
        checkpoints=on_gpu,
        block=block,
        logits=logits,
        runtime=1.5 * GB,
        host=(pinned if setup.offload_activations else 0.0) + (moments if setup.offload_optimizer else 0.0),
    )


class DoesNotFitError(RuntimeError):
    """Training needs more memory than available; the message suggests settings that fit."""


# Ordered by their cost in time, cheapest first.
_SAVINGS = (
    {"fused_loss": True},
    {"checkpointing": True},
    {"optimizer": "adamw_8bit", "fp32_weights": False},
    {"fp32_accumulation": False},
    {"checkpointing": True, "offload_activations": True},
    {"optimizer": "adamw_4bit"},
    {"offload_optimizer": True},
)


def check_fits(
    config: PreTrainedConfig,
    n_tokens: int,
    *,
    gpu_bytes: float,
    host_bytes: float,
    setup: Setup | None = None,
    batch_size: int = 1,
) -> Memory:
    """Check, before training starts, that it fits in memory. Returns its Memory.

    Args: gpu_bytes, host_bytes: free memory of one GPU, and its share of the host's; others as in `training_memory`.
    Raises DoesNotFitError with the memory needed and what fits: the cheapest additional savings on this GPU, the
    longest samples with this setup, and the number of such GPUs for samples of this length.
    """
    setup = setup or Setup()
    need = training_memory(config, n_tokens, setup, batch_size=batch_size)

    def fits(changed: Setup, n: int = n_tokens, rows: int = batch_size) -> bool:
        memory = training_memory(config, n, changed, batch_size=rows)
        return memory.peak <= gpu_bytes and memory.host <= host_bytes

    if fits(setup):
        return need
    advice = []
    if batch_size > 1 and fits(setup, rows=1):
        advice.append("one sample at a time, with gradient accumulation")
    saved, taken = setup, []
    for change in _SAVINGS:
        if all(getattr(saved, name) == value for name, value in change.items()):
            continue
        saved = replace(saved, **change)
        taken.append(", ".join(f"{name} = {value}" for name, value in change.items()))
        if fits(saved):
            advice.append("on this GPU with " + "; ".join(taken))
            break
    longest = max((n for n in range(1024, n_tokens, 1024) if fits(setup, n)), default=0)
    if longest:
        advice.append(f"samples of {longest:,} tokens with this setup")
    for degree in (2, 4, 8, 16, 32, 64):
        many = replace(saved, shards=setup.shards * degree, sequence_parallel=setup.sequence_parallel * degree)
        # Offloading to the host costs time, so the advice for more GPUs does not include it.
        if fits(plain := replace(many, offload_activations=False, offload_optimizer=False)):
            advice.append(f"{plain.shards} such GPUs, with sharded weights and split samples")
            break
    sizes = need.gigabytes()
    parts = ", ".join(f"{name} {value:.1f}" for name, value in sizes.items() if name not in ("peak", "host"))
    raise DoesNotFitError(
        f"{n_tokens:,} tokens need about {sizes['peak']:.0f} GB on the GPU ({parts}) and {sizes['host']:.0f} GB of "
        f"host memory; available are {gpu_bytes / GB:.0f} and {host_bytes / GB:.0f}. "
        + (f"These would fit: {'; or '.join(advice)}." if advice else "No known setup fits: use a smaller model.")
    )
