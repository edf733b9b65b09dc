"""What training costs in floating-point operations, from any configuration of a transformer."""

import functools
import json
from dataclasses import astuple, dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from longrecipe.models.rope import head_dim


@dataclass(frozen=True)
class Counts:
    """Parameters of a model: of its blocks, of the input embeddings, and of the output matrix (LM head) where it has
    weights of its own."""

    blocks: int
    embeddings: int
    own_head: int

    @property
    def total(self) -> int:
        """All parameters, a tied LM head counted once."""
        return self.blocks + self.embeddings + self.own_head


def counts(config: Any) -> Counts:
    """Count the parameters of a model from its configuration, which is built without memory (on the meta device)."""
    return _counts(type(config), json.dumps(config.to_dict(), default=str, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _counts(kind: type, settings: str) -> Counts:
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(kind(**json.loads(settings)))
    embeddings = network.get_input_embeddings().weight.numel()
    own_head = 0 if network.config.tie_word_embeddings else network.get_output_embeddings().weight.numel()
    return Counts(network.num_parameters() - embeddings - own_head, embeddings, own_head)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations, by what they are for; a multiplication and an addition are two.

    linear: matrices of the blocks; attention: scores and weighted sums, causal; head: the LM head; recompute: forward
    passes done again in the backward one. MFU counts all but recompute.
    """

    linear: float
    attention: float
    head: float
    recompute: float = 0.0

    @property
    def model(self) -> float:
        """What the model needs, whatever is recomputed: the count of MFU."""
        return self.linear + self.attention + self.head

    @property
    def total(self) -> float:
        """What the processor executes."""
        return self.model + self.recompute

    def __mul__(self, n_tokens: float) -> "Flops":
        return Flops(*(n_tokens * value for value in astuple(self)))


def flops_per_token(config: Any, length: int, checkpointing: bool = False) -> Flops:
    r"""FLOPs that training takes for each token of samples of n tokens, forward and backward.

    Forward, a token: linear $2 N_b$, head $2 V H$ and attention $4 L h d \cdot n / 2$: two products of length d for
    each head and earlier token, of which a causal mask leaves half (Chowdhery et al. 2022, arXiv 2204.02311, appendix
    B, halved). Backward is twice that. Checkpointing does the blocks' forward pass again: $2 N_b + 2 L h d n$ more
    (Chen et al. 2016, arXiv 1604.06174). What a flash kernel recomputes inside its backward pass is not counted, by
    custom.

    Args: config of the model: L layers of h heads of width d, vocabulary V, hidden size H, N_b parameters of its blocks
    (norms included); length n, tokens of one sample. Skipped positions cost nothing: only how many tokens are read
    does. Worked example: L 1, h 1, d 2, H 2, V 5, N_b 40, five tokens: linear 240, attention 60, head 60.
    """
    config = config.get_text_config()
    blocks = counts(config).blocks
    attention = config.num_hidden_layers * config.num_attention_heads * head_dim(config) * length
    return Flops(
        linear=6.0 * blocks,
        attention=6.0 * attention,
        head=6.0 * config.vocab_size * config.hidden_size,
        recompute=2.0 * (blocks + attention) if checkpointing else 0.0,
    )


def training_flops(config: Any, n_tokens: float, length: int) -> float:
    """Model FLOPs of training on n_tokens in samples of `length` tokens each; see `flops_per_token`."""
    return (flops_per_token(config, length) * n_tokens).model
