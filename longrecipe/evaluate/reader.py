"""Read long texts once and ask many questions about them: a batch of texts is kept as a key-value cache.

A prompt (text and one question) then costs a forward pass of a few tokens, and only the logits of the last positions
are computed. Positions are not skipped: evaluation reads whole texts at positions 0, 1, 2, ...
"""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, Cache, DynamicCache, PreTrainedModel, StaticCache
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from longrecipe.models.loading import autocast_dtype, device_kind

# Most tokens of several texts that are read in one forward pass; a longer text is read alone.
BATCH_TOKENS = 16_384
# Share of the free memory of a GPU for the keys and values of texts that are asked about together.
_CACHED_SHARE = 0.4
FLOAT32_SDPA = "float32_sdpa"


def to_read(network: PreTrainedModel, precision: str | None = None) -> PreTrainedModel:
    """The model as it reads text: on the GPU if there is one, with weights in the dtype of a precision.

    precision: see `models.autocast_dtype`; None keeps the dtype. On a CPU, a bfloat16 model with sdpa attention attends
    in float32 (`_float32_sdpa`). If the weights or the attention change, a copy is returned and the model stays as it
    is.
    """
    device = device_kind()
    dtype = autocast_dtype(precision, device) if precision else network.dtype
    slow = device == "cpu" and dtype == torch.bfloat16 and network.config._attn_implementation == "sdpa"
    if network.dtype != dtype or slow:
        network = copy.deepcopy(network)
        for weights in network.parameters():
            # network.to(dtype) would also round the RoPE frequencies, and with them distant positions.
            weights.data = weights.data.to(dtype)
    if slow:
        AttentionInterface.register(FLOAT32_SDPA, _float32_sdpa)
        AttentionMaskInterface.register(FLOAT32_SDPA, sdpa_mask)
        network.set_attn_implementation(FLOAT32_SDPA)
    return network.to(device)


def _float32_sdpa(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *mask: Any, **named: Any
) -> tuple[torch.Tensor, None]:
    """transformers' sdpa attention on float32 tensors, for a model of any dtype.

    In bfloat16 torch multiplies the blocks of attention with MKL, which is slow on AMD CPUs. Matmul precision medium
    uses oneDNN instead, which multiplies in float32, or in bfloat16 if the processor has units for it (AMX). A single
    token attends by `_one_token`.
    """
    if query.shape[-2] == 1:
        return _one_token(query, key, value, *mask, scaling=named.get("scaling")), None
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        read, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), *mask, **named)
    finally:
        torch.set_float32_matmul_precision(before)
    return read.to(query.dtype), None


def _one_token(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None, *, scaling: float | None
) -> torch.Tensor:
    """Attention of one token, query [B, heads, 1, d], to n keys and values [B, shared heads, n, d]: [B, 1, heads, d].

    As transformers' eager attention, in the model's dtype with a softmax in float32, but heads that share keys are
    multiplied together, so that keys and values are read once and never copied. mask: [B, 1, 1, n], False or a large
    negative number for keys that are not seen. scaling: None takes 1 / sqrt(d).
    """
    batch, heads, _, width = query.shape
    grouped = query.reshape(batch, key.shape[1], -1, width)
    scores = torch.matmul(grouped, key.transpose(-1, -2)).float() * (width**-0.5 if scaling is None else scaling)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return torch.matmul(scores.softmax(-1).to(value.dtype), value).view(batch, 1, heads, width)


def texts_at_once(network: PreTrainedModel, length: int) -> int:
    """The number of texts of some length, in tokens, that a model is asked about together.

    They have BATCH_TOKENS together. On a GPU they are as many as _CACHED_SHARE of the free memory has keys and values
    for, if that is more and all layers attend to the whole text: the time of an answer there is mostly that of starting
    kernels, unless models and texts are large.
    """
    count, device = max(1, BATCH_TOKENS // length), network.device
    if device.type != "cuda" or not _attends_to_all(network):
        return count
    # What torch has reserved and does not use is free, too.
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(count, int(_CACHED_SHARE * free / (length * _cached_bytes(network))))


def _cached_bytes(network: PreTrainedModel) -> int:
    """The bytes that the keys and values of a token take. One is read, as not all configurations say it."""
    layers = Reader(network, np.zeros((1, 1), dtype=np.int64)).cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def _attends_to_all(network: PreTrainedModel) -> bool:
    """Whether all layers of a model attend to the whole text, so that caches of texts can be put together."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=network.config).layers)


def cache_name(network: PreTrainedModel) -> str:
    """What a model calls its key-value cache. transformers 5.24 renamed it, and 5.40 removes the old name."""
    return "cache" if "cache" in inspect.signature(network.forward).parameters else "past_key_values"


class Reader:
    """Texts of one length, ids int64 [B, n], that a model reads once, to ask many questions about them.

    If all layers attend to the whole text, they are read in forward passes of BATCH_TOKENS (see `texts_at_once`).
    """

    def __init__(self, network: PreTrainedModel, ids: np.ndarray):
        self.network, self.length, self._cache_name = network, ids.shape[1], cache_name(network)
        size = max(1, BATCH_TOKENS // self.length) if _attends_to_all(network) else len(ids)
        read = _joined([self._read(ids[start : start + size]) for start in range(0, len(ids), size)])
        # Recurrent layers cannot remove a question, so each question gets a copy of what was read.
        self._kept = None if read.is_croppable else read
        self.cache = read if self._kept is None else copy.deepcopy(read)

    def _read(self, ids: np.ndarray) -> DynamicCache:
        self.cache = DynamicCache(config=self.network.config)
        self._forward(ids)
        # Layers with a sliding window can only remove a question if they record what it pushes out.
        self.cache.activate_past_recording()
        return self.cache

    def _forward(self, ids: np.ndarray, last: int = 1) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(ids)).to(self.network.device)
        given = {self._cache_name: self.cache, "use_cache": True, "logits_to_keep": last}
        out = self.network(input_ids=x, **given)
        return out.logits.float()

    def _greedy(self, ids: np.ndarray, n_tokens: int) -> np.ndarray:
        tokens = []
        for _ in range(n_tokens):
            ids = self._forward(ids)[:, -1:].argmax(-1).cpu().numpy()
            tokens.append(ids)
        return np.concatenate(tokens, axis=1)

    def _forget(self) -> None:
        if self._kept is None:
            self.cache.crop(self.length - self.cache.get_seq_length())
        else:
            self.cache = copy.deepcopy(self._kept)

    def ask(self, questions: np.ndarray, last: int = 1) -> torch.Tensor:
        """Logits [B, last, vocabulary] after each of the last tokens of the questions, ids [B, q], then forget them."""
        logits = self._forward(questions, last)
        self._forget()
        return logits

    def generate(self, questions: np.ndarray, n_tokens: int) -> np.ndarray:
        """The greedy continuation [B, n_tokens] of the questions, ids [B, q]; then forget it."""
        answers = self._greedy(questions, n_tokens)
        self._forget()
        return answers

    def converse(self, turns: list[np.ndarray], n_tokens: int, close: np.ndarray) -> np.ndarray:
        """Ask several questions one after the other; each greedy answer of n_tokens stays in the context.

        Args: turns: Q arrays of ids [B, q]; close: ids that end an answer. Returns answers [B, Q, n_tokens], and
        forgets them all.
        """
        answers: list[np.ndarray] = []
        for turn in turns:
            if answers:
                # The model has generated the last token of its answer, but not read it yet.
                closed = np.tile(close, (len(turn), 1))
                turn = np.concatenate([answers[-1][:, -1:], closed, turn], axis=1)
            answers.append(self._greedy(turn, n_tokens))
        self._forget()
        return np.stack(answers, axis=1)


def _joined(caches: list[DynamicCache]) -> DynamicCache:
    """One cache of all texts, from caches of some of them. Only one layer is in memory twice."""
    first, *others = caches
    for i, layer in enumerate(first.layers if others else ()):
        for name in ("keys", "values"):
            setattr(layer, name, torch.cat([getattr(each.layers[i], name) for each in caches]))
            for each in others:
                setattr(each.layers[i], name, None)
    return first


def read_apart(
    network: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    room: int,
    *,
    advance: Callable[[int], object] = int,
) -> Cache | None:
    """Read prompts one by one, and return one key-value cache from which their answers are generated together.

    A padded batch needs an attention mask, with which attention takes about twice as long on a CPU. And a cache with
    room for the answers copies nothing, while transformers' default copies all keys and values for each token.

    Args:
        ids: prompts int64 [B, n], padded on the left. Their last token is not read: the model continues from it.
        mask: [B, n], 0 for padding.
        room: most tokens of a prompt with its answer.
        advance: called with the tokens of each prompt that has been read.

    Returns None for a single prompt or one of a single token, and if not all layers of the model attend to the whole
    text.
    """
    padding, alone = (mask == 0).sum(-1).tolist(), []
    if len(ids) == 1 or max(padding) > ids.shape[1] - 2 or not _attends_to_all(network):
        return None
    for prompt, skipped in zip(ids.cpu().numpy(), padding, strict=True):
        alone.append(Reader(network, prompt[None, skipped:-1]).cache)
        advance(len(prompt) - skipped)
    cache = StaticCache(config=network.config, max_cache_len=room)
    for i in range(len(alone[0].layers)):
        read = [each.layers[i] for each in alone]
        keys = torch.cat([pad(each.keys, (0, 0, n, 0)) for each, n in zip(read, padding, strict=True)])
        values = torch.cat([pad(each.values, (0, 0, n, 0)) for each, n in zip(read, padding, strict=True)])
        cache.update(keys, values, i)
    return cache
