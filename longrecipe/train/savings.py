"""What saves memory or time in a network: fused loss, compiled blocks, checkpointing that keeps attention's outputs."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from longrecipe.settings.memory import Setup
from longrecipe.train.loss import fuse_loss

# The backend of torch.compile.
COMPILER = "inductor"


@contextmanager
def compiled_blocks(network: PreTrainedModel) -> Iterator[None]:
    """Compile every block of the network by itself (regional compilation) while the context lasts.

    All blocks share the compiled code, which takes seconds to make for each shape of a batch. Compiled kernels round
    less often than eager ones: in float32 they give the same model, in bfloat16 a slightly different one. Blocks are
    compiled in place, so wrappers, hooks and the names of weights stay.
    """
    blocks = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    for block in blocks:
        block.compile(backend=COMPILER)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


def save_memory(network: PreTrainedModel, setup: Setup) -> PreTrainedModel:
    """Give a network the fused loss and the checkpointing of a setup. Changes the network and returns it.

    Checkpointing itself is turned on by `PreTrainedModel.activation_checkpointing_enable`, as Trainer does.
    """
    if setup.fused_loss:
        fuse_loss(network, setup.loss_chunk)
    if setup.keep_attention:
        keep_attention(network)
    return network


def keep_attention(network: PreTrainedModel) -> PreTrainedModel:
    """Make checkpointing keep the outputs of attention, so that the backward pass does not compute them again. Changes
    the network and returns it.

    Each block keeps its input and what the attention kernel returns: the output, 2 h d bytes per token in bfloat16, and
    the log-sums, 4 h. The kernels are those of PyTorch (sdpa) and flash-attn; eager attention is computed again.
    """
    enable = network.activation_checkpointing_enable

    def enabled(activation_checkpointing_kwargs=None, **options):
        kept = {"context_fn": partial(create_selective_checkpoint_contexts, _policy)}
        return enable((activation_checkpointing_kwargs or {}) | kept, **options)

    network.activation_checkpointing_enable = enabled
    return network


def _policy(context, operator, *args, **kwargs) -> CheckpointPolicy:
    is_kernel = "_scaled_dot_product_" in str(operator) or str(operator).startswith("flash_attn._flash_attn")
    return CheckpointPolicy.MUST_SAVE if is_kernel else CheckpointPolicy.PREFER_RECOMPUTE
