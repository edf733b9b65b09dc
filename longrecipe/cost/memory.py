"""What training takes of memory, from any configuration of a transformer, by what the memory holds."""

from dataclasses import dataclass, fields, replace
from typing import Any

from longrecipe.cost.flops import counts
from longrecipe.models.rope import head_dim
from longrecipe.settings.memory import Setup

# Bytes for each parameter of Adam's two moments; the blocks of 256 of low-bit ones have a float32 scale each.
OPTIMIZER_BYTES = {
    "adamw_fp32": 8.0,
    "adamw_bf16": 4.0,
    "adamw_8bit": 2 * (1 + 4 / 256),
    "adamw_4bit": 2 * (0.5 + 4 / 128),
}
GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Bytes of one GPU at the peak of a training step, by what they hold, and of the host's memory.

    weights, gradients, moments of the optimizer, checkpoints (inputs of all blocks; all activations where nothing is
    recomputed), block (activations and gradients of the one in work), logits (with their gradients; the peak of either
    is counted), runtime (CUDA's context and libraries, the allocator's gaps).
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
        """Bytes on the GPU at the peak: the block in work and the logits are never there together."""
        lasting = self.weights + self.gradients + self.optimizer + self.checkpoints + self.runtime
        return lasting + max(self.block, self.logits)

    def gigabytes(self) -> dict[str, float]:
        """Every part and the peak in GB (1e9 bytes)."""
        return {f.name: getattr(self, f.name) / GB for f in fields(self)} | {"peak": self.peak / GB}


def activation_bytes(config: Any) -> float:
    r"""Bytes of activations that one block keeps for its backward pass, a token, in bfloat16, nothing recomputed.

    $16 H + 4 h d + 4 k d + 4 h + 8 F + 8$: two norms (input in float32, its scale, normalised, and their outputs,
    which the matrices keep: 8 H + 4 each), queries and attention's output, keys and values, its log-sums, and four of
    the MLP's width: gate, its SiLU, up, their product. Counted from what autograd keeps in transformers' Llama, Mistral
    and Qwen2 with SDPA or flash attention, as Korthikanti et al. (2022, arXiv 2205.05198) do for GPT.

    Args: config: H hidden size, h heads and k key-value heads of width d, F width of the MLP.
    """
    c = config.get_text_config()
    d, h, k = head_dim(c), c.num_attention_heads, key_value_heads(c)
    return 16.0 * c.hidden_size + 4.0 * h * d + 4.0 * k * d + 4.0 * h + 8.0 * mlp_width(c) + 8.0


def key_value_heads(config: Any) -> int:
    """Heads of keys and values: all heads if the configuration names no fewer, as GPT-NeoX's."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def mlp_width(config: Any) -> int:
    """Width of the MLP: intermediate_size or what a family calls it; 4 times the hidden size if it names none."""
    names = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
    return next((width for name in names if (width := getattr(config, name, None))), 4 * config.hidden_size)


def training_memory(config: Any, n_tokens: int, setup: Setup | None = None, batch_size: int = 1) -> Memory:
    r"""Memory of one GPU that trains all weights of a model on samples of n tokens.

    With N parameters, B samples at a time, s shards and p sequence shards: weights 2 N / s (6 N / s in mixed
    precision), gradients 2 N / s (4 in float32), moments as the optimizer keeps them; checkpoints $2 L H n B / p$; the
    block in work: `activation_bytes`, and the gradients at its widest point, the MLP ($6 F$, with $4 H$ at its ends);
    where samples are split, keys and values of all parts and their gradients besides ($8 k d$ a token of the sample);
    logits: a token's V in bfloat16, twice in float32 (upcast, softmax) and their gradient, 12 V, for all tokens of the
    GPU or of a chunk. Sharded weights are gathered two blocks at a time (the next is fetched early).

    Args: config; n_tokens of one sample; setup, None takes the defaults of Setup; batch_size, samples at a time.
    """
    setup, c, n = setup or Setup(), config.get_text_config(), counts(config)
    here = n_tokens * batch_size / setup.sequence_parallel
    per_block = n.blocks / c.num_hidden_layers
    gathered = 0.0 if setup.shards == 1 else 2 * 2.0 * per_block + 2.0 * n.embeddings
    kept = 2.0 * c.hidden_size if setup.checkpointing else activation_bytes(c)
    checkpoints = c.num_hidden_layers * kept * here
    width = 6.0 * mlp_width(c) + 4.0 * c.hidden_size
    block = (activation_bytes(c) if setup.checkpointing else 0.0) * here + width * here
    if setup.sequence_parallel > 1:
        block += 8.0 * key_value_heads(c) * head_dim(c) * n_tokens * batch_size
    at_once = min(here, setup.loss_chunk) if setup.fused_loss else here
    moments = OPTIMIZER_BYTES[setup.optimizer] * n.total / setup.shards
    away = setup.offload_activations
    return Memory(
        weights=(6.0 if setup.fp32_weights else 2.0) * n.total / setup.shards + gathered,
        gradients=(4.0 if setup.fp32_weights or setup.fp32_accumulation else 2.0) * n.total / setup.shards,
        optimizer=0.0 if setup.offload_optimizer else moments,
        # Two inputs are on the way to and from the host.
        checkpoints=2 * kept * here if away else checkpoints,
        block=block,
        logits=12.0 * c.vocab_size * at_once,
        runtime=1.5 * GB,
        host=(checkpoints if away else 0.0) + (moments if setup.offload_optimizer else 0.0),
    )


class DoesNotFitError(RuntimeError):
    """Training would need more memory than there is; the message says what would fit."""


# In the order of what they cost in time, least first.
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
    config: Any, n_tokens: int, gpu_bytes: float, host_bytes: float, setup: Setup | None = None, batch_size: int = 1
) -> Memory:
    """Say before training starts whether it fits; returns its Memory.

    Args: gpu_bytes, host_bytes: what one GPU and its share of the host have free; the others as in `training_memory`.
    Raises DoesNotFitError that names what it needs, and what would fit: the cheapest further savings on this GPU, the
    longest samples as set up, and how many such GPUs would hold the samples as they are.
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
        advice.append(f"samples of {longest:,} tokens, as set up")
    for degree in (2, 4, 8, 16, 32, 64):
        many = replace(saved, shards=setup.shards * degree, sequence_parallel=setup.sequence_parallel * degree)
        # The savings above cost time; more GPUs come without those that move data to the host.
        if fits(plain := replace(many, offload_activations=False, offload_optimizer=False)):
            advice.append(f"{plain.shards} such GPUs, weights sharded and samples split among them")
            break
    sizes = need.gigabytes()
    parts = ", ".join(f"{name} {value:.1f}" for name, value in sizes.items() if name not in ("peak", "host"))
    raise DoesNotFitError(
        f"{n_tokens:,} tokens need about {sizes['peak']:.0f} GB on the GPU ({parts}) and {sizes['host']:.0f} GB of "
        f"the host's memory; there are {gpu_bytes / GB:.0f} and {host_bytes / GB:.0f}. "
        + (f"What would fit: {'; or '.join(advice)}." if advice else "No setup known here fits: take a smaller model.")
    )
