"""The disk space of a run, from the configuration of a model."""

from transformers import PreTrainedConfig

from longrecipe.cost.flops import counts
from longrecipe.cost.memory import OPTIMIZER_BYTES
from longrecipe.settings.memory import Setup

# Finished stages that are kept: H', extension, replay. The export comes on top.
_STAGES = 3
# transformers keeps two checkpoints, and writes a third one before it deletes the first.
_CHECKPOINTS = 3


def disk_bytes(
    config: PreTrainedConfig, setup: Setup, *, n_row_tokens: float = 0, n_text_tokens: float = 0, n_copies: int = 0
) -> float:
    r"""The maximum disk space of a run, in bytes: finished stages, checkpoints of one stage, export, samples and text.

    With N parameters of b bytes each and m bytes of moments per parameter: $4 b N + 3 (b + m) N$, plus 8 bytes for each
    token of a stored sample and 4 for each token of text, plus $b N$ for each further copy of the weights.

    Args: config: of the model; setup: for its dtypes; n_row_tokens: of all stored samples; n_text_tokens: of the text;
    n_copies: of the weights, kept after some steps.
    Example: Llama-3-8B as in params/paper, with 8-bit moments: 161 GB, and 14 GB of samples and text.
    """
    n, size = counts(config).total, 4.0 if setup.fp32_weights else 2.0
    model, checkpoint = size * n, (size + OPTIMIZER_BYTES[setup.optimizer]) * n
    return (_STAGES + 1 + n_copies) * model + _CHECKPOINTS * checkpoint + 8.0 * n_row_tokens + 4.0 * n_text_tokens
