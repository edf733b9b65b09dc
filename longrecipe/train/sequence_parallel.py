r"""Context parallelism: the tokens of one sample split among p processes, at any positions.

Every layer gathers the keys and values of all parts, in the sample's order, and each part attends with its own queries
(Llama 3: Grattafiori et al. 2024, arXiv 2407.21783, section 3.3.2). A sample is cut into 2 p chunks and part r reads
chunks r and 2 p - 1 - r, so that all parts have the same number of pairs to attend to. What a token sees is settled by
its place alone, never by its position: a jump is no border.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from longrecipe.data.samples import IGNORE, Collator

NAME = "context_parallel"


@dataclass(frozen=True)
class Context:
    """The processes that share a sample: this one is number `part` of `parts`; group: theirs, of torch.distributed."""

    part: int
    parts: int
    group: Any = None

    @property
    def chunks(self) -> tuple[int, int]:
        """The two of a sample's 2 * parts chunks that this part reads: an early one and, for balance, a late one."""
        return self.part, 2 * self.parts - 1 - self.part


def make_context(parts: int) -> Context:
    """Group the running processes by their ranks, `parts` at a time; all of them must call it."""
    group, _ = dist.new_subgroups(group_size=parts)
    return Context(dist.get_rank() % parts, parts, group)


def reading_order(n_samples: int, batch_size: int, parts: int) -> list[int]:
    """Indices of a set in which every batch of one reader comes `parts` times in a row, whole batches only.

    Processes are dealt the batches in turn, so the parts of a group get the same one: batches of 2 for 2 parts are
    0 1 0 1 2 3 2 3 ...
    """
    return [
        start + i
        for start in range(0, n_samples - batch_size + 1, batch_size)
        for _ in range(parts)
        for i in range(batch_size)
    ]


def cut(batch: dict[str, torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
    """One part's tokens of a batch, with `shift_labels`, the tokens that come next in the whole sample.

    Samples are filled up on the right to a multiple of 2 * parts tokens: causal, so no real token sees the filling; it
    is asked nothing, has attention_mask 0, and repeats the last position. Eight tokens for part 0 of 2: 0 1 6 7.
    Args: batch, of a Collator, [rows, n]. Returns [rows, ceil(n / (2 parts)) * 2] and n_tokens, the n of every row.
    Raises ValueError for samples of fewer than 2 * parts tokens, and for masks that hide tokens, which would be lost.
    """
    n_rows, n_tokens = batch["input_ids"].shape
    if n_tokens < 2 * context.parts:
        raise ValueError(f"samples of {n_tokens} tokens do not split among sequence_parallel = {context.parts} parts.")
    if not batch["attention_mask"].all():
        raise ValueError("attention_mask hides tokens; split samples are attended to in full: give samples unpadded.")
    extra = -n_tokens % (2 * context.parts)
    last = batch["position_ids"][:, -1:]
    # Shifted first: the last token of a chunk is asked for the first of the next, which another part may read.
    labels = F.pad(batch["labels"][:, 1:], (0, 1 + extra), value=IGNORE)
    whole = {
        "input_ids": F.pad(batch["input_ids"], (0, extra)),
        "position_ids": torch.cat([batch["position_ids"], last.expand(-1, extra)], dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (0, extra)),
        "labels": labels,
        "shift_labels": labels,
    }
    own = {name: own_chunks(x, context) for name, x in whole.items()}
    return own | {"long": batch["long"], "n_tokens": torch.full((n_rows,), n_tokens)}


def own_chunks(x: torch.Tensor, context: Context, dim: int = 1) -> torch.Tensor:
    """The two chunks of one part, along dim, of a multiple of 2 * parts tokens."""
    chunks = x.chunk(2 * context.parts, dim=dim)
    return torch.cat([chunks[i] for i in context.chunks], dim=dim)


class SplitCollator:
    """A collator that gives one part's tokens of what another one stacks."""

    def __init__(self, collator: Collator, context: Context):
        # Loader workers need no group, and cannot be sent one.
        self.collator, self.context = collator, Context(context.part, context.parts)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        return cut(self.collator(rows), self.context)


class _Gather(torch.autograd.Function):
    """[B, ...] of every part to [parts, B, ...]; each part's gradient is the sum of what all parts have for it."""

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
    # Renamed by torch 2.13, where the former names warn.
    return getattr(dist, name, None) or getattr(dist, before)


def gather(own: torch.Tensor, group: Any) -> torch.Tensor:
    """The keys or values of a whole sample, in its order, of the two chunks that each part has.

    Args: own [B, heads, 2 n / (2 parts), D]. Returns [B, heads, n, D], with gradients to every part's own.
    """
    early, late = _Gather.apply(own, group).chunk(2, dim=3)
    return torch.cat([*early, *late.flip(0)], dim=2)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    *,
    context: Context,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    r"""Causal attention of one part's queries to all keys before them, as an attention function of transformers.

    For token t of the sample $\mathrm{softmax}_{s \le t}(q_t k_s / \sqrt D) v_s$, s over all parts' tokens.
    Args: query [B, heads, m, D], key and value [B, KV heads, m, D] of the part's two chunks. Returns [B, m, heads, D].
    """
    device = query.device.type
    # The plain attention would be computed in this dtype as well; sent around, it is half as many bytes.
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    query, key, value = (x.to(dtype) for x in (query, key, value))
    sizes, shared = (key.shape[-1], value.shape[-1]), query.shape[1] // key.shape[1]
    key, value = gather(torch.cat([key, value], dim=-1), context.group).split(sizes, dim=-1)
    if dtype == torch.float32:
        # No kernel of float32 shares heads without a mask of queries by keys.
        key, value = (x.repeat_interleave(shared, dim=1) for x in (key, value))
    size, outputs = query.shape[2] // 2, []
    for chunk, queries in zip(context.chunks, query.split(size, dim=2), strict=True):
        end = (chunk + 1) * size
        keys, values = key[:, :, :end], value[:, :, :end]
        # Lower right: the last query sees all keys. Flash attention on a GPU, a mask of booleans on a CPU.
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
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Nothing is hidden but what comes later, which `attend` sees to; above all nothing for jumps of positions."""


def check_splittable(network: PreTrainedModel) -> None:
    """Raise ValueError for a model whose layers see less than all that came before, or whose RoPE goes by the largest
    position of its input: a part has not the sample's."""
    config = network.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if kinds or getattr(config, "sliding_window", None):
        raise ValueError(
            f"sequence_parallel needs full attention in every layer; {type(network).__name__} has "
            f"{', '.join(sorted(kinds)) or f'a sliding window of {config.sliding_window}'}: train with 1."
        )
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in ("dynamic", "longrope"):
        raise ValueError(
            f"sequence_parallel with rope_type = {rope!r}: it goes by the largest position of the input, which differs "
            "between parts of a sample; take default, linear, llama3 or yarn, or train with 1."
        )


def split_attention(network: PreTrainedModel, context: Context) -> None:
    """Let a network attend to the tokens of all parts; `network.set_attn_implementation` takes it back."""
    AttentionInterface.register(NAME, partial(attend, context=context))
    AttentionMaskInterface.register(NAME, _no_mask)
    network.set_attn_implementation(NAME)
