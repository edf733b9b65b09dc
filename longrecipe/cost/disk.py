"""What a run writes to disk, from a model's configuration."""

from typing import Any

from longrecipe.cost.flops import counts
from longrecipe.cost.memory import OPTIMIZER_BYTES
from longrecipe.settings.memory import Setup

# Finished stages that stay: H', extension, replay. Then the export.
_STAGES = 3
# transformers keeps two checkpoints, and writes the third before it deletes the first.
_CHECKPOINTS = 3


def disk_bytes(config: Any, setup: Setup, n_row_tokens: float = 0, n_text_tokens: float = 0) -> float:
    r"""Bytes that a run writes to disk at most: finished stages, checkpoints of the one in work, export, samples, text.

    With N parameters of b bytes and m bytes of moments a parameter: $4 b N + 3 (b + m) N$, 8 bytes for each token of a
    stored sample, and 4 for each token of text.

    Args: config of the model; setup: its dtypes; n_row_tokens of all stored samples; n_text_tokens of the text.
    Example: Llama-3-8B as in params/paper, 8-bit moments: 161 GB, and 14 GB of samples and text.
    """
    n, size = counts(config).total, 4.0 if setup.fp32_weights else 2.0
    model, checkpoint = size * n, (size + OPTIMIZER_BYTES[setup.optimizer]) * n
    return (_STAGES + 1) * model + _CHECKPOINTS * checkpoint + 8.0 * n_row_tokens + 4.0 * n_text_tokens
