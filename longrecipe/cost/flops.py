"""The floating-point operations of training, from the configuration of a transformer."""

import functools
import json
from dataclasses import astuple, dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from longrecipe.models.rope import head_dim


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters: of the blocks, of the input embeddings, and of the LM head if it is not tied to them."""

    blocks: int
    embeddings: int
    own_head: int

    @property
    def total(self) -> int:
        """All parameters; a tied LM head counts once."""
        return self.blocks + self.embeddings + self.own_head


def counts(config: PreTrainedConfig) -> Counts:
    """Count the parameters of a model, which is built from its configuration on the meta device, without memory."""
    return _counts(type(config), json.dumps(config.to_dict(), default=str, sort_keys=True))


@functools.lru_cache(maxsize=64)
def _counts(kind: type, settings: str) -> Counts:
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(kind(**json.loads(settings)))
    embeddings = network.get_input_embeddings().weight.numel()
    own_head = 0 if network.config.tie_word_embeddings else network.get_output_embeddings().weight.numel()
    return Counts(network.num_parameters() - embeddings - own_head, embeddings, own_head)


def key_value_heads(config: PreTrainedConfig) -> int:
    """Number of key-value heads: all heads if the configuration has no other number, as in GPT-NeoX."""
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def cached_width(config: PreTrainedConfig) -> int:
    """Numbers that the key-value cache keeps of a token: keys and values of all blocks."""
    return 2 * config.num_hidden_layers * key_value_heads(config) * head_dim(config)


def mlp_width(config: PreTrainedConfig) -> int:
    """Width of the MLP: intermediate_size or its name in another family, else 4 times the hidden size."""
    names = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim")
    return next((width for name in names if (width := getattr(config, name, None))), 4 * config.hidden_size)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations by purpose; a multiplication and an addition count as two.

    linear: matrices of the blocks; attention: causal scores and weighted sums; head: the LM head; recompute: forward
    passes repeated in the backward pass. MFU counts all but recompute.
    """

    linear: float
    attention: float
    head: float
    recompute: float = 0.0

    @property
    def model(self) -> float:
        """Operations that the model needs, without recomputation. MFU counts these."""
        return self.linear + self.attention + self.head

    @property
    def total(self) -> float:
        """Operations that the processor executes."""
        return self.model + self.recompute

    def __mul__(self, n_tokens: float) -> "Flops":
        return Flops(*(n_tokens * value for value in astuple(self)))


def flops_per_token(config: PreTrainedConfig, length: int, checkpointing: bool = False) -> Flops:
    r"""FLOPs per token of training on samples of n tokens, forward and backward.

    Forward, per token: linear $2 N_b$, head $2 V H$ and attention $4 L h d \cdot n / 2$, two products of length d for
    each head and each other token, halved by the causal mask (Chowdhery et al. 2022, arXiv 2204.02311, appendix B,
    without this half). The backward pass takes twice as many. Checkpointing repeats the forward pass of each block
    (Chen et al. 2016, arXiv 1604.06174) up to its last matrix, whose output the backward pass does not need:
    $2 N_b - 2 L F H + 2 L h d n$ more. Recomputation inside the backward pass of a flash kernel does not count, as
    usual.

    Args: config: L layers of h heads of width d, vocabulary V, hidden size H, MLP of width F, N_b parameters of the
    blocks, norms included; length: n, tokens of one sample. Skipped positions cost nothing, only the number of tokens
    matters.
    Example: L 1, h 1, d 2, H 2, V 5, N_b 40, five tokens: linear 240, attention 60, head 60.
    """
    config = config.get_text_config()
    blocks, last = counts(config).blocks, config.num_hidden_layers * mlp_width(config) * config.hidden_size
    attention = config.num_hidden_layers * config.num_attention_heads * head_dim(config) * length
    return Flops(
        linear=6.0 * blocks,
        attention=6.0 * attention,
        head=6.0 * config.vocab_size * config.hidden_size,
        recompute=2.0 * (blocks - last + attention) if checkpointing else 0.0,
    )


def training_flops(config: PreTrainedConfig, n_tokens: float, length: int) -> float:
    """Model FLOPs of training on n_tokens, in samples of `length` tokens each; see `flops_per_token`."""
    return (flops_per_token(config, length) * n_tokens).model
