"""Cross-entropy with a weight for each token, and without the logits of all tokens in memory.

For a sample of 38,400 tokens and a vocabulary of 128k entries, all logits and their gradients take 59 GB.
"""

import types

import torch
import torch.nn.functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from longrecipe.data.samples import IGNORE


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The sum of weighted cross-entropies. The forward pass computes the gradients too, chunk by chunk, and keeps no
    logits."""

    @staticmethod
    def forward(ctx, hidden, weight, chunks):
        # Under autocast, use the dtype that F.linear would use.
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        loss, d_hidden, d_weight = _forward(hidden, weight, chunks, dtype)
        ctx.save_for_backward(d_hidden, d_weight)
        return loss

    @staticmethod
    def backward(ctx, grad):
        d_hidden, d_weight = ctx.saved_tensors
        # In place, as backward runs only once: a copy of d_weight would be as large as the head.
        return d_hidden.mul_(grad), d_weight.mul_(grad.to(d_weight.dtype)), None


def _forward(hidden, weight, chunks, dtype):
    sizes = [len(labels) for labels, _ in chunks]
    loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
    d_hidden, d_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        matrix = weight.to(dtype)
        for rows, (labels, shares), out in zip(hidden.split(sizes), chunks, d_hidden.split(sizes), strict=True):
            rows = rows.to(dtype)
            # A function of its own, so that the logits of one chunk are freed before those of the next are made.
            summed, gradient = _chunk(F.linear(rows, matrix).float(), labels, shares, dtype)
            loss += summed
            out.copy_(gradient @ matrix)
            d_weight += gradient.T @ rows
            del gradient
    return loss, d_hidden, d_weight.to(weight.dtype)


def _chunk(logits, labels, shares, dtype):
    """The weighted sum of cross-entropies of a chunk, and d loss / d logits = w (softmax - one-hot).

    Overwrites the logits. Labels of -100 have the weight 0.
    """
    counted = labels != IGNORE
    index, shares = labels.where(counted, 0)[:, None], shares.where(counted, 0.0)
    right, largest = logits.gather(1, index), logits.amax(dim=-1, keepdim=True)
    # In place: torch's logsumexp and softmax would allocate once or twice the memory of the logits.
    total = logits.sub_(largest).exp_().sum(dim=-1, keepdim=True)
    loss = ((largest + total.log() - right).squeeze(1) * shares).sum()
    gradient = logits.div_(total).scatter_add_(1, index, -torch.ones_like(right)).mul_(shares[:, None])
    return loss, gradient.to(dtype)


def chunked_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    *,
    chunk: int = 4096,
    n_tokens: torch.Tensor | float | None = None,
    loss_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Mean cross-entropy of $\mathrm{softmax}(W h_t)$, with the logits of only `chunk` tokens in memory at a time.

    The result equals `weighted_cross_entropy` of full logits. The gradients $w_t (\mathrm{softmax}(W h_t) - e_{y_t})$
    times W and h are computed while the logits of a chunk are in memory (as Liger does: Hsu et al. 2024, arXiv
    2410.10989); the gradient of W is summed in float32. Backward can be called once.

    Args: hidden [n, H]; weight W [V, H]; labels int64 [n], -100 for tokens that do not count; chunk in tokens; n_tokens
    divides the sum, None means the number of labels that count; loss_weights w float32 [n], None means 1. Returns a
    float32 scalar, NaN if no label counts.
    """
    weights = torch.ones_like(labels, dtype=torch.float32) if loss_weights is None else loss_weights
    chunks = list(zip(labels.split(chunk), weights.split(chunk), strict=True))
    total = _ChunkedCrossEntropy.apply(hidden, weight, chunks)
    return total / ((labels != IGNORE).sum() if n_tokens is None else n_tokens)


def weighted_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    loss_weights: torch.Tensor,
    *,
    n_tokens: torch.Tensor | float | None = None,
) -> torch.Tensor:
    r"""Weighted cross-entropy $\frac{1}{N} \sum_t w_t \ell_t$ with $\ell_t = -\log \mathrm{softmax}(z_t)_{y_t}$.

    The sum is divided by the number of tokens N and not by the sum of the weights. So the losses of any parts of a
    batch add up to the loss of the whole, if all are given its N: under gradient accumulation, over several processes,
    and over the parts of a sample.

    Args: logits z [n, V]; labels y int64 [n], -100 for tokens that do not count; loss_weights w [n]; n_tokens N, None
    means the number of labels that count. Returns a float32 scalar.
    Example: losses of 1 and 3 with weights of 0.5 and 1.5 give 2.5.
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")
    return (losses * loss_weights).sum() / ((labels != IGNORE).sum() if n_tokens is None else n_tokens)


def logit_changes(config: PreTrainedConfig) -> list[str]:
    """Names of the settings with which a model scales or caps its logits (Cohere, Granite, Gemma 2); [] for others."""
    names = ("logit_scale", "logits_scaling", "final_logit_softcapping", "lm_head_multiplier")
    return [name for name in names if getattr(config.get_text_config(), name, None) not in (None, 1, 1.0)]


def weigh_loss(network: PreTrainedModel) -> PreTrainedModel:
    """Make a causal language model accept loss_weights with its labels. Changes the network and returns it.

    loss_weights, float [rows, n], are the weights of the losses of the labels, see `weighted_cross_entropy`: as labels
    they belong to the token itself, and if shift_labels are given too, to the next token. Without loss_weights, the
    network works as before.
    """
    plain = network.forward

    def forward(self, *args, labels=None, shift_labels=None, num_items_in_batch=None, loss_weights=None, **kwargs):
        if loss_weights is None:
            given = {"labels": labels, "shift_labels": shift_labels, "num_items_in_batch": num_items_in_batch}
            return plain(*args, **{name: each for name, each in given.items() if each is not None}, **kwargs)
        out = plain(*args, **kwargs)
        labels, weights = _next(labels, shift_labels, loss_weights)
        out.loss = weighted_cross_entropy(
            out.logits.flatten(0, 1), labels.flatten(), weights.flatten(), n_tokens=num_items_in_batch
        )
        return out

    network.forward = types.MethodType(forward, network)
    return network


def _next(labels, shift_labels, loss_weights):
    """The label of each token and the weight of its loss: those of the next token. The last token has none."""
    if shift_labels is not None:
        return shift_labels, loss_weights
    weights = None if loss_weights is None else F.pad(loss_weights[:, 1:], (0, 1))
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE), weights


def fuse_loss(network: PreTrainedModel, chunk: int = 4096) -> PreTrainedModel:
    """Make a causal language model compute its loss with `chunked_cross_entropy`. Changes the network and returns it.

    With labels, the network returns a loss and no logits; without labels, it works as before. If shift_labels are given
    too, they are the label of each token, as in transformers' own loss. loss_weights are those of `weigh_loss`.

    The weight of the head is read inside the head's own forward, because FSDP2 and ZeRO-3 gather it there with hooks.
    The forward methods are replaced and not the modules, so these hooks stay active.

    Raises ValueError if the head has a bias or if the model scales or caps its logits, as the loss would be wrong.
    """
    head, odd = network.get_output_embeddings(), logit_changes(network.config)
    if head is None or getattr(head, "bias", None) is not None or odd:
        odd = " and ".join(odd) or ("no linear head" if head is None else "a head with a bias")
        raise ValueError(
            f"fused_loss: {type(network).__name__} has {odd}, but the fused loss only works with plain linear heads: "
            "set fused_loss: false."
        )
    plain, plain_head = network.forward, head.forward

    def loss_of(self, hidden, labels=None, **options):
        if labels is None:
            return plain_head(hidden)
        return chunked_cross_entropy(hidden, self.weight, labels, chunk=chunk, **options)

    def forward(self, *args, labels=None, shift_labels=None, num_items_in_batch=None, loss_weights=None, **kwargs):
        if labels is None:
            return plain(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs).last_hidden_state.flatten(0, 1)
        labels, weights = _next(labels, shift_labels, loss_weights)
        more = {"n_tokens": num_items_in_batch, "loss_weights": None if weights is None else weights.flatten()}
        return CausalLMOutputWithPast(loss=self.get_output_embeddings()(hidden, labels=labels.flatten(), **more))

    head.forward = types.MethodType(loss_of, head)
    network.forward = types.MethodType(forward, network)
    return network
