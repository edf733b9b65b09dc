"""What training costs, in floating-point operations."""

from typing import Any

from longrecipe.rope import head_dim


def training_flops(config: Any, n_parameters: int, n_tokens: int, length: int) -> float:
    r"""FLOPs of training on n_tokens in samples of `length` tokens: $(6 N + 12 L h d \cdot n / 2)$ a token
    (Chowdhery et al. 2022, arXiv 2204.02311, appendix B, the attention term halved for a causal mask).

    Forward and backward pass, nothing recomputed. N counts the parameters that multiply: without the input embeddings
    where the output has weights of its own. Skipped positions cost nothing: only how many tokens are read counts.
    Args: config of the model: L layers, h heads of width d; n_parameters of the whole model; n_tokens, those of all
    samples; length n of one, tokens.
    """
    embedding = 0 if config.tie_word_embeddings else config.vocab_size * config.hidden_size
    width = config.num_attention_heads * head_dim(config)
    return n_tokens * (6.0 * (n_parameters - embedding) + 6.0 * config.num_hidden_layers * width * length)
