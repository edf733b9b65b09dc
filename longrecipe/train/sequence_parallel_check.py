"""A guard to run before training with split samples: the parts' attention must be that of the whole sample."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import PreTrainedModel, TrainerCallback

from longrecipe.models.rope import head_dim
from longrecipe.train.guard import MAX_GAP, MAX_TOKENS, SkippedPositionsError, skipping_positions
from longrecipe.train.sequence_parallel import Context, attend, cut, own_chunks, split_attention

# What float32 sums in another order may differ by, relative to the logits; bfloat16 has 8 significant bits.
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1


def check_context_parallel(network: PreTrainedModel, context: Context, dtype: torch.dtype | None = None) -> None:
    r"""Prove that attention split among the parts is the whole one where positions jump; all parts call it together.

    Logits z of random tokens in three segments, by the network's own attention, and z' of the parts, both less their
    mean over the vocabulary: $\max_t |z'_t - z_t| / |z_t|$ must be that of rounding; so must the differences of the
    gradients of queries, keys and values, $\max |g' - g| / \max |g|$. The network is left as it was.

    Args: network, in its own attention, on the device it trains on; dtype that it computes in, None: its weights'.
    Raises SkippedPositionsError, on all parts alike.
    """
    dtype = dtype or network.dtype
    worst = torch.stack([_logits_apart(network, context), _gradients_apart(network, context, dtype)]).nan_to_num(
        torch.inf
    )
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=context.group)
    tolerance = TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    if (worst > tolerance).any():
        raise SkippedPositionsError(
            f"Attention split among sequence_parallel = {context.parts} parts is not that of the whole sample: logits "
            f"of tokens at skipping positions differ by {worst[0]:.2g} of their size, gradients by {worst[1]:.2g} "
            f"(allowed {tolerance:g}; {type(network).__name__}, {dtype}). Most likely the model's attention has more "
            "to it than causal softmax: train with sequence_parallel = 1."
        )


@torch.no_grad()
def _logits_apart(network: PreTrainedModel, context: Context) -> torch.Tensor:
    config, generator = network.config.get_text_config(), torch.Generator().manual_seed(0)
    # Odd, so that there is filling; three tokens in most chunks.
    n_tokens = max(MAX_TOKENS, 6 * context.parts) - 1
    room = (getattr(config, "max_position_embeddings", None) or n_tokens + 2 * MAX_GAP) - n_tokens
    ids = torch.randint(config.vocab_size, (2, n_tokens), generator=generator)
    positions = skipping_positions(2, n_tokens, min(MAX_GAP, max(1, room // 2)))
    batch = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids)}
    part = cut(batch | {"labels": ids, "long": torch.ones(2, dtype=torch.bool)}, context)
    plain, training = network.config._attn_implementation, network.training
    try:
        network.eval()
        whole = _logits(network, batch)
        split_attention(network, context)
        got = _logits(network, {name: part[name] for name in batch})
    finally:
        network.set_attn_implementation(plain)
        network.train(training)
    extra = got.shape[1] * context.parts - n_tokens
    kept = part["attention_mask"].bool().to(got.device)
    wanted, got = own_chunks(F.pad(whole, (0, 0, 0, extra)), context)[kept], got[kept]
    return ((got - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max()


def _logits(network: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    batch = {name: tensor.to(network.device) for name, tensor in batch.items()}
    logits = network(**batch, use_cache=False).logits.float()
    return logits - logits.mean(dim=-1, keepdim=True)


def _gradients_apart(network: PreTrainedModel, context: Context, dtype: torch.dtype) -> torch.Tensor:
    config, generator = network.config.get_text_config(), torch.Generator().manual_seed(0)
    heads, kv_heads = config.num_attention_heads, getattr(config, "num_key_value_heads", config.num_attention_heads)
    shapes = [(2, count, 6 * context.parts, head_dim(config)) for count in (heads, kv_heads, kv_heads, heads)]
    *inputs, weights = (torch.randn(x, generator=generator).to(network.device, dtype) for x in shapes)
    whole, own = ([y.requires_grad_() for y in x] for x in (inputs, [own_chunks(x, context, 2) for x in inputs]))
    shared = [x.repeat_interleave(heads // x.shape[1], dim=1) for x in whole]
    (F.scaled_dot_product_attention(*shared, is_causal=True) * weights).sum().backward()
    out, _ = attend(None, *own, context=context)
    (out.transpose(1, 2) * own_chunks(weights, context, 2)).sum().backward()
    wanted = [own_chunks(x.grad, context, 2).float() for x in whole]
    return torch.stack(
        [(x.grad.float() - y).abs().max() / y.abs().max() for x, y in zip(own, wanted, strict=True)]
    ).max()


class SplitAttention(TrainerCallback):
    """The networks of a stage attend as parts while it trains; right before, on the trained one, the proof of it."""

    def __init__(self, context: Context, networks: Sequence[PreTrainedModel]):
        self.context, self.networks = context, networks
        self.plain = [network.config._attn_implementation for network in networks]

    def on_train_begin(self, args, state, control, **kwargs):
        # Here, as the network is where training has put it by now.
        check_context_parallel(self.networks[0], self.context, torch.bfloat16 if args.bf16 else None)
        for network in self.networks:
            split_attention(network, self.context)

    def on_train_end(self, args, state, control, **kwargs):
        for network, plain in zip(self.networks, self.plain, strict=True):
            network.set_attn_implementation(plain)
