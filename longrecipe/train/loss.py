"""Cross-entropy that never holds the logits of all tokens: of a sample of 38,400 tokens and 128k entries, 59 GB."""

import types
from typing import Any

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from longrecipe.data.samples import IGNORE


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of cross-entropies; gradients are made with the logits, chunk by chunk, so that no chunk is kept."""

    @staticmethod
    def forward(ctx, hidden, weight, labels, chunk):
        # Under autocast the product is made in the dtype that F.linear would take.
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        loss, d_hidden, d_weight = _forward(hidden, weight, labels, chunk, dtype)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    def backward(ctx, grad):
        d_hidden, d_weight = ctx.saved_tensors
        # Once only, so in place: a copy of either would be as large as the parameters of the head.
        return d_hidden.mul_(grad), d_weight.mul_(grad.to(d_weight.dtype)), None, None


def _forward(hidden, weight, labels, chunk, dtype):
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        matrix = weight.to(dtype)
        for rows, wanted, out in zip(hidden.split(chunk), labels.split(chunk), d_hidden.split(chunk), strict=True):
            rows = rows.to(dtype)
            logits = F.linear(rows, matrix).float()
            asked = wanted != IGNORE
            index = wanted.where(asked, 0)[:, None]
            log_sum = logits.logsumexp(dim=-1, keepdim=True)
            loss += ((log_sum - logits.gather(1, index)).squeeze(1) * asked).sum()
            # d loss / d logits = softmax - one-hot, in the logits' own place.
            gradient = logits.sub_(log_sum).exp_().scatter_add_(1, index, -torch.ones_like(index, dtype=logits.dtype))
            gradient = gradient.mul_(asked[:, None]).to(dtype)
            out.copy_(gradient @ matrix)
            d_weight += gradient.T @ rows
    return loss, d_hidden, d_weight.to(weight.dtype)


def chunked_cross_entropy(
    hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, chunk: int = 4096, n_tokens: Any = None
) -> torch.Tensor:
    r"""Mean cross-entropy of $\mathrm{softmax}(W h_t)$, equal to that of full logits, whose peak memory is that of
    `chunk` tokens.

    The gradients $(\mathrm{softmax}(W h_t) - e_{y_t})$ times W and h are made while a chunk's logits are there (as
    Liger does: Hsu et al. 2024, arXiv 2410.10989); the head's are summed in float32. Backward can be called once.

    Args: hidden [n, H]; weight W [V, H]; labels int64 [n], -100 where nothing is asked; chunk in tokens; n_tokens: what
    the sum is divided by, None takes the labels asked for. Returns a float32 scalar; NaN where nothing is asked.
    """
    total = _ChunkedCrossEntropy.apply(hidden, weight, labels, chunk)
    return total / ((labels != IGNORE).sum() if n_tokens is None else n_tokens)


def logit_changes(config: Any) -> list[str]:
    """The names of settings by which a model scales or caps its logits (Cohere, Granite, Gemma 2); empty for others."""
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping", "lm_head_multiplier")
    return [name for name in names if getattr(config.get_text_config(), name, None) not in (None, 1, 1.0)]


def fuse_loss(network: PreTrainedModel, chunk: int = 4096) -> PreTrainedModel:
    """Let a causal language model compute its loss by `chunked_cross_entropy`, in place; returns it.

    With labels it returns a loss and no logits; without, it is as it was. shift_labels, where given as well, are what
    each token is asked for, as transformers' own loss takes them. The head's weight is read in the head's own forward,
    where FSDP2 and ZeRO-3 gather it by hooks; what they do about a weight read elsewhere varies by version. Both
    forwards are replaced, not the modules, so that hooks stay in force. Raises ValueError for a head with a bias or
    scaled, soft-capped logits: its loss would be another one.
    """
    head, odd = network.get_output_embeddings(), logit_changes(network.config)
    if head is None or getattr(head, "bias", None) is not None or odd:
        odd = " and ".join(odd) or ("no linear head" if head is None else "a head with a bias")
        raise ValueError(
            f"fused_loss: {type(network).__name__} has {odd}, and the fused loss is for plain linear heads: set "
            "fused_loss: false."
        )
    plain, plain_head = network.forward, head.forward

    def loss_of(self, hidden, labels=None, n_tokens=None):
        if labels is None:
            return plain_head(hidden)
        return chunked_cross_entropy(hidden, self.weight, labels, chunk, n_tokens)

    def forward(self, *args, labels=None, shift_labels=None, num_items_in_batch=None, **kwargs):
        if labels is None:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state
        # Token t + 1 is what position t is asked for; the last one is asked nothing.
        wanted = F.pad(labels[:, 1:], (0, 1), value=IGNORE) if shift_labels is None else shift_labels
        loss = self.get_output_embeddings()(hidden.flatten(0, 1), labels=wanted.flatten(), n_tokens=num_items_in_batch)
        return CausalLMOutputWithPast(loss=loss)

    head.forward = types.MethodType(loss_of, head)
    network.forward = types.MethodType(forward, network)
    return network
