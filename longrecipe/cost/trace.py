"""The peak memory and the FLOPs of a training step, traced on tensors without content.

The step runs with the real shapes and the kit's own loss, checkpointing and sums of gradients, but on PyTorch's fake
tensors, which have sizes and no data. So a step of an 8B model takes seconds, and needs neither a GPU nor memory.
"""

import copy
import math
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AttentionInterface, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from longrecipe.cost.flops import counts
from longrecipe.cost.memory import OPTIMIZER_BYTES
from longrecipe.settings.memory import Setup
from longrecipe.train.accumulation import Float32Gradients
from longrecipe.train.options import weights_dtype
from longrecipe.train.savings import save_memory

_KERNEL = torch.ops.aten._scaled_dot_product_flash_attention
_ATTENTION = "traced_attention"
# Operators, besides views, that read and write nothing.
_NO_KERNEL = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "_unsafe_view"}


@dataclass(frozen=True)
class Trace:
    """What a traced step takes.

    peak: bytes that PyTorch allocates at the peak, with the optimizer's moments. matrices, attention: the FLOPs of all
    matrix products and of attention, executed, with both halves of the causal mask. traffic: bytes that all other
    operators read and write.
    """

    peak: float
    matrices: float
    attention: float
    traffic: float


def trace(config: PreTrainedConfig, n_tokens: int, setup: Setup | None = None, *, n_batches: int = 2) -> Trace:
    """Trace the batches of a training step that updates all weights, each of one sample, on one GPU.

    The update itself is not traced: the moments are modelled, and low-bit and fused optimizers need little more. Nor
    is what the kernels use inside. Operators run as on a CPU; the shapes on a GPU are the same.

    Args: config: of the model; n_tokens: of a sample; setup: None means the defaults of Setup; n_batches: whose
    gradients are summed.
    Raises ValueError for setups of several GPUs and for compiled blocks, whose kernels do not exist before they run.
    """
    setup = setup or Setup()
    if setup.compile:
        raise ValueError("compile = True: only eager operators can be traced; a compiled step needs no more memory.")
    if setup.shards > 1 or setup.sequence_parallel > 1:
        raise ValueError("a trace is that of one GPU: set shards and sequence_parallel to 1.")
    network, traced = _network(config, setup), _Traced()
    with FakeTensorMode(allow_non_fake_inputs=True), _offload_traced():
        network = save_memory(network.to_empty(device="cpu").train(), setup)
        if setup.checkpointing:
            network.activation_checkpointing_enable({"use_reentrant": False}, offload=setup.offload_activations)
        for tensor in (*network.parameters(), *network.buffers()):
            traced.add(tensor)
        sums = Float32Gradients(network) if setup.fp32_accumulation else None
        ids = torch.zeros(1, n_tokens, dtype=torch.int64)
        options = {"dtype": torch.bfloat16, "enabled": setup.fp32_weights}
        with traced:
            for _ in range(n_batches):
                with torch.autocast("cpu", **options):
                    loss = network(input_ids=ids, position_ids=ids, labels=ids, use_cache=False).loss
                loss.backward()
                del loss
            if sums:
                sums.restore()
    attention = sum(count for operator, count in traced.flops.items() if "attention" in operator)
    moments = 0.0 if setup.offload_optimizer else OPTIMIZER_BYTES[setup.optimizer] * counts(config).total
    matrices = traced.flops.total() - attention
    return Trace(traced.peak + moments, matrices=matrices, attention=attention, traffic=traced.moved)


def _network(config: PreTrainedConfig, setup: Setup) -> PreTrainedModel:
    with torch.device("meta"):
        options = {"dtype": weights_dtype(setup), "attn_implementation": _ATTENTION}
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), **options)


def _attention(module, *inputs, scaling=None, **options):
    """Attention as the GPU kernels compute it: it keeps the output and the log-sums, and no weights."""
    query, key, value = inputs[:3]
    out = _KERNEL(query, key, value, 0.0, True, False, scale=scaling)[0]
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(_ATTENTION, _attention)


class _Traced(TorchDispatchMode):
    """Count the bytes of all storages that are in memory, now and at the most; the FLOPs of each operator that has
    any; and the bytes that the others move."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.moved = 0
        self.flops: Counter[str] = Counter()
        self._known: set[int] = set()

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.remove(key)
        self.now -= size

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        for each in tree_leaves(out):
            if isinstance(each, torch.Tensor):
                self.add(each)
        if (flops := flop_registry.get(func._overloadpacket)) is not None:
            self.flops[str(func._overloadpacket)] += flops(*args, **kwargs, out_val=out)
        elif func.namespace == "aten" and not (func.is_view or func._opname in _NO_KERNEL):
            self.moved += sum(_nbytes(each) for each in tree_leaves((args, kwargs, out)))
        return out


def _nbytes(value: object) -> int:
    """The bytes of a tensor, each of those that it repeats (by `expand`) once; 0 if it is no tensor."""
    if not isinstance(value, torch.Tensor):
        return 0
    sizes = (size for size, stride in zip(value.shape, value.stride(), strict=True) if stride)
    return math.prod(sizes) * value.element_size()


class _InHostMemory(torch.autograd.graph.saved_tensors_hooks):
    """Keep only the shape of what is saved for the backward pass, as if its content were in the host's memory."""

    def __init__(self, **options: object):
        super().__init__(lambda saved: (saved.shape, saved.dtype), lambda kept: torch.empty(kept[0], dtype=kept[1]))


@contextmanager
def _offload_traced() -> Iterator[None]:
    # On a CPU, PyTorch's own hooks would keep the tensors where they are.
    with mock.patch("transformers.modeling_utils.save_on_cpu", _InHostMemory):
        yield
