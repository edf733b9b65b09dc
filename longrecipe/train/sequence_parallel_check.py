"""A check to run before training with split samples: the parts must attend like the whole sample."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import PreTrainedModel, TrainerCallback

from longrecipe.models.rope import head_dim
from longrecipe.train.guard import MAX_GAP, MAX_TOKENS, SkippedPositionsError, skipping_positions
from longrecipe.train.sequence_parallel import Context, attend, cut, own_chunks, split_attention

# Allowed relative differences of sums in another order, in float32 and in bfloat16 (8 significant bits).
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.1


def check_sequence_parallel(network: PreTrainedModel, context: Context, dtype: torch.dtype | None = None) -> None:
    r"""Check that attention split into parts equals that of the whole sample if positions jump; all parts must call it.

    z are the logits of random tokens in three segments with the network's own attention, z' those of the parts, both
    minus their mean over the vocabulary. $\max_t |z'_t - z_t| / |z_t|$ must not exceed rounding, and neither must the
    difference of the gradients of queries, keys and values, $\max |g' - g| / \max |g|$. The network is not changed.

    Args: network: with its own attention, on the device it trains on; dtype: of its computations, None means that of
    its weights. Raises SkippedPositionsError, in all parts.
    """
    dtype = dtype or network.dtype
    worst = torch.stack([_logits_apart(network, context), _gradients_apart(network, context, dtype)])
    worst = worst.nan_to_num(torch.inf)
    dist.all_reduce(worst, dist.ReduceOp.MAX, group=context.group)
    tolerance = TOLERANCE if dtype == torch.float32 else HALF_TOLERANCE
    if (worst > tolerance).any():
        raise SkippedPositionsError(
            f"Attention split into sequence_parallel = {context.parts} parts differs from that of the whole sample: at "
            f"skipped positions, logits differ by {worst[0]:.2g} of their size and gradients by {worst[1]:.2g} "
            f"(allowed are {tolerance:g}; {type(network).__name__}, {dtype}). The model's attention is probably not "
            "plain causal softmax: set sequence_parallel to 1."
        )


@torch.no_grad()
def _logits_apart(network: PreTrainedModel, context: Context) -> torch.Tensor:
    config, generator = network.config.get_text_config(), torch.Generator().manual_seed(0)
    # An odd number, so that there is padding, and three tokens in most chunks.
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
    out = attend(*own, context=context)
    (out.transpose(1, 2) * own_chunks(weights, context, 2)).sum().backward()
    wanted = [own_chunks(x.grad, context, 2).float() for x in whole]
    return torch.stack(
        [(x.grad.float() - y).abs().max() / y.abs().max() for x, y in zip(own, wanted, strict=True)]
    ).max()


class SplitAttention(TrainerCallback):
    """Make networks attend in parts during training, after `check_sequence_parallel` of the first, trained one."""

    def __init__(self, context: Context, networks: Sequence[PreTrainedModel]):
        self.context, self.networks = context, networks
        self.plain = [network.config._attn_implementation for network in networks]

    def on_train_begin(self, args, state, control, **kwargs):
        # Not earlier: now the network is on the device it trains on.
        check_sequence_parallel(self.networks[0], self.context, torch.bfloat16 if args.bf16 else None)
        for network in self.networks:
            split_attention(network, self.context)

    def on_train_end(self, args, state, control, **kwargs):
        for network, plain in zip(self.networks, self.plain, strict=True):
            network.set_attn_implementation(plain)
