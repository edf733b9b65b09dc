"""General abilities, which extension should keep: perplexity of short text, and copying of a repeated passage."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from longrecipe.data.corpus import excerpt
from longrecipe.evaluate.reader import BATCH_TOKENS


@torch.inference_mode()
def perplexity(network: PreTrainedModel, ids: np.ndarray, length: int) -> float:
    """Perplexity $\\exp(-\\frac{1}{M}\\sum \\log p(x_t | x_{<t}))$ over all whole windows of `length` tokens of ids.

    Args: ids int64 [M] held-out text. Raises ValueError if ids has no whole window.
    """
    windows = len(ids) // length
    if not windows:
        raise ValueError(f"perplexity at {length} tokens needs a text at least that long, it has {len(ids)}.")
    x = torch.from_numpy(ids[: windows * length].reshape(windows, length)).to(network.device)
    total = 0.0
    for batch in x.split(max(1, BATCH_TOKENS // length)):
        logits = network(input_ids=batch, use_cache=False).logits[:, :-1].float()
        total += F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return math.exp(total / (windows * (length - 1)))


@torch.inference_mode()
def copying(
    network: PreTrainedModel, source: np.ndarray, length: int, *, n_documents: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Next-token accuracy (largest logit) on the second copy of a passage of length / 2 tokens, and on the first.

    The second copy can be predicted from the first; the first shows what the model knows without it. Both are in 0..1.
    """
    half = length // 2
    x = torch.from_numpy(np.stack([np.tile(excerpt(source, half, rng), 2) for _ in range(n_documents)]))
    hits = []
    for batch in x.to(network.device).split(max(1, BATCH_TOKENS // length)):
        logits = network(input_ids=batch, use_cache=False).logits[:, :-1]
        hits.append((logits.argmax(-1) == batch[:, 1:]).float())
    right = torch.cat(hits)
    return right[:, half:].mean().item(), right[:, : half - 1].mean().item()
