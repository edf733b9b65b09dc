r"""Sequence parallelism: split the tokens of a sample, at any positions, over p processes.

Every layer gathers the keys and values of all parts, in the order of the sample, and each part attends with its own
queries (Llama 3: Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2). A sample is cut into 2 p chunks, and part r
gets chunks r and 2 p - 1 - r, so all parts have the same number of pairs to attend to. A token sees the tokens before
it in the sample, whatever their positions, so a jump is not a border.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from longrecipe.data.samples import IGNORE, WEIGHTS, Collator

NAME = "sequence_parallel"


@dataclass(frozen=True)
class Context:
    """The processes that share a sample: this one is number `part` of `parts`; group is their process group."""

    part: int
    parts: int
    group: Any = None

    @property
    def chunks(self) -> tuple[int, int]:
        """The two of the 2 * parts chunks of a sample for this part: an early one and, for balance, a late one."""
        return self.part, 2 * self.parts - 1 - self.part


def make_context(parts: int) -> Context:
    """Group the running processes by rank, `parts` in each group; all processes must call it."""
    group, _ = dist.new_subgroups(group_size=parts)
    return Context(dist.get_rank() % parts, parts, group)


def reading_order(n_samples: int, batch_size: int, parts: int) -> list[int]:
    """Indices of a dataset in which each batch is repeated `parts` times; an incomplete last batch is left out.

    Processes take batches in turn, so all parts of a group get the same one. For batches of 2 samples and 2 parts:
    0 1 0 1 2 3 2 3 ...
    """
    return [
        start + i
        for start in range(0, n_samples - batch_size + 1, batch_size)
        for _ in range(parts)
        for i in range(batch_size)
    ]


def cut(batch: dict[str, torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
    """The tokens of one part of a batch, with `shift_labels`: the next tokens in the whole sample, and their weights.

    Samples are padded on the right to a multiple of 2 * parts tokens. Attention is causal, so no real token sees the
    padding, which has no labels, an attention_mask of 0 and the last position. Eight tokens for part 0 of 2: 0 1 6 7.

    Args: batch: of a Collator, [rows, n]. Returns [rows, ceil(n / (2 parts)) * 2] and n_tokens, the n of every row.
    Raises ValueError if samples have fewer than 2 * parts tokens, or if a mask hides tokens, as it would be ignored.
    """
    n_rows, n_tokens = batch["input_ids"].shape
    if n_tokens < 2 * context.parts:
        raise ValueError(
            f"samples of {n_tokens} tokens are too short to split into sequence_parallel = {context.parts} parts."
        )
    if not batch["attention_mask"].all():
        raise ValueError("attention_mask hides tokens, which sequence_parallel ignores: use samples without padding.")
    extra = -n_tokens % (2 * context.parts)
    last = batch["position_ids"][:, -1:]
    # Shift first: the label of the last token of a chunk is the first token of the next, which may be in another part.
    labels = F.pad(batch["labels"][:, 1:], (0, 1 + extra), value=IGNORE)
    whole = {
        "input_ids": F.pad(batch["input_ids"], (0, extra)),
        "position_ids": torch.cat([batch["position_ids"], last.expand(-1, extra)], dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (0, extra)),
        "labels": labels,
        "shift_labels": labels,
    }
    if WEIGHTS in batch:
        whole[WEIGHTS] = F.pad(batch[WEIGHTS][:, 1:], (0, 1 + extra))
    own = {name: own_chunks(x, context) for name, x in whole.items()}
    return own | {"long": batch["long"], "n_tokens": torch.full((n_rows,), n_tokens)}


def own_chunks(x: torch.Tensor, context: Context, dim: int = 1) -> torch.Tensor:
    """The two chunks of one part along dim, whose size must be a multiple of 2 * parts."""
    chunks = x.chunk(2 * context.parts, dim=dim)
    return torch.cat([chunks[i] for i in context.chunks], dim=dim)


class SplitCollator:
    """A collator that returns the tokens of one part of the batches of another collator."""

    def __init__(self, collator: Collator, context: Context):
        # Without the group: data loader workers do not need it, and it cannot be pickled.
        self.collator, self.context = collator, Context(context.part, context.parts)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return cut(self.collator(rows), self.context)


class _Gather(torch.autograd.Function):
    """Gather [B, ...] of every part to [parts, B, ...]; the gradient of a part is the sum over all parts."""

    @staticmethod
    def forward(ctx, own, group):
        ctx.group = group
        parts = own.new_empty(dist.get_world_size(group) * own.shape[0], *own.shape[1:])
        _collective("all_gather_single", "all_gather_into_tensor")(parts, own.contiguous(), group=group)
        return parts.unflatten(0, (-1, own.shape[0]))

    @staticmethod
    def backward(ctx, grad):
        own = grad.new_empty(grad.shape[1:])
        reduce_scatter = _collective("reduce_scatter_single", "reduce_scatter_tensor")
        reduce_scatter(own, grad.flatten(0, 1).contiguous(), group=ctx.group)
        return own, None


def _collective(name: str, before: str):
    # PyTorch 2.13 renamed these functions; the old names warn.
    return getattr(dist, name, None) or getattr(dist, before)


def gather(own: torch.Tensor, group: Any) -> torch.Tensor:
    """Gather the keys or values of a whole sample, in order, from the two chunks of each part.

    Args: own [B, heads, 2 n / (2 parts), D]. Returns [B, heads, n, D], with gradients to the input of every part.
    """
    early, late = _Gather.apply(own, group).chunk(2, dim=3)
    return torch.cat([*early, *late.flip(0)], dim=2)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    context: Context,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> torch.Tensor:
    r"""Causal attention from the queries of one part to the keys of all parts.

    For token t of the sample: $\mathrm{softmax}_{s \le t}(q_t k_s / \sqrt D) v_s$, s over the tokens of all parts.
    Args: query [B, heads, m, D], key and value [B, KV heads, m, D] of the two chunks of this part; dropout: a
    probability; scaling: None means 1 / sqrt(D). Returns [B, m, heads, D].
    """
    device = query.device.type
    # Attention is computed in this dtype anyway; converting first halves the bytes to send.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query, key, value = (x.to(dtype) for x in (query, key, value))
    sizes, shared = (key.shape[-1], value.shape[-1]), query.shape[1] // key.shape[1]
    key, value = gather(torch.cat([key, value], dim=-1), context.group).split(sizes, dim=-1)
    if dtype == torch.float32:
        # No float32 kernel shares heads without a mask of size queries x keys.
        key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
    size, outputs = query.shape[2] // 2, []
    for chunk, queries in zip(context.chunks, query.split(size, dim=2), strict=True):
        end = (chunk + 1) * size
        keys, values = key[:, :, :end], value[:, :, :end]
        # Lower right: the last query sees all keys. Uses flash attention on a GPU, a boolean mask on a CPU.
        outputs.append(
            F.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=causal_lower_right(size, end),
                dropout_p=dropout,
                scale=scaling,
                enable_gqa=queries.shape[1] != keys.shape[1],
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


def check_splittable(network: PreTrainedModel) -> None:
    """Raise ValueError if a model cannot be trained with split samples.

    Its layers must see all earlier tokens, and its RoPE must not depend on the largest position of the input, which
    differs between the parts of a sample.
    """
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None):
        raise ValueError(
            f"sequence_parallel needs full attention in every layer; {type(network).__name__} has "
            f"{', '.join(sorted(kinds)) or f'a sliding window of {config.sliding_window}'}: set sequence_parallel to 1."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise ValueError(
            f"sequence_parallel does not work with rope_type = {rope!r}, which depends on the largest position of the "
            "input and so differs between parts of a sample: use default, linear, llama3 or yarn, or set it to 1."
        )


def split_attention(network: PreTrainedModel, context: Context) -> None:
    """Make a network attend to the tokens of all parts; `network.set_attn_implementation` undoes it."""

    def attention(module, query, key, value, *_mask, dropout=0.0, scaling=None, **_options):
        return attend(query, key, value, context=context, dropout=dropout, scaling=scaling), None

    AttentionInterface.register(NAME, attention)
    # No mask: `attend` is causal by itself, and above all nothing may be hidden at jumps of positions.
    AttentionMaskInterface.register(NAME, lambda *args, **options: None)
    network.set_attn_implementation(NAME)
