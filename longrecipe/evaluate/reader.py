"""Read long texts once, ask them often: batches of texts kept as a key-value cache.

A prompt (text and one question) then costs a forward pass of a few tokens, and only the logits of the last positions
are ever made. Skipped positions play no part here: evaluation reads whole texts at positions 0, 1, 2, ...
"""

import contextlib
import copy
from collections.abc import Iterator

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel

from longrecipe.models import autocast_dtype

# Tokens that one batch of texts may hold; bounds memory whatever the length.
BATCH_TOKENS = 16_384


def to_read(network: PreTrainedModel, precision: str | None = None) -> PreTrainedModel:
    """The model where and as it reads text: on the GPU where there is one, its weights in the dtype of a precision (see
    `models.autocast_dtype`; medium: float32; None leaves them). Where its dtype is another, a copy: the model stays
    what it is."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = "fp32" if precision == "medium" else precision
    dtype = autocast_dtype(precision, device) if precision else network.dtype
    if network.dtype != dtype:
        network = copy.deepcopy(network)
        for weights in network.parameters():
            # Not network.to(dtype): that rounds RoPE's frequencies too, and far positions with them.
            weights.data = weights.data.to(dtype)
    return network.to(device)


@contextlib.contextmanager
def multiplying(precision: str | None = None) -> Iterator[None]:
    """Inside, for the precision medium, float32 matrices are multiplied as `torch.set_float32_matmul_precision` says.

    The processor may then multiply in bfloat16 where that is quicker; elsewhere torch takes oneDNN's float32 on a CPU,
    which is quicker than MKL's on those of AMD. Other precisions change nothing.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if precision == "medium" else before)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class Reader:
    """Texts of one length, ids int64 [B, n], read once by a model, to be asked again and again."""

    def __init__(self, network: PreTrainedModel, ids: np.ndarray):
        self.network, self.cache = network, DynamicCache(config=network.config)
        self.length = ids.shape[1]
        self._forward(ids)

    def _forward(self, ids: np.ndarray, last: int = 1) -> torch.Tensor:
        x = torch.from_numpy(np.ascontiguousarray(ids)).to(self.network.device)
        out = self.network(input_ids=x, past_key_values=self.cache, use_cache=True, logits_to_keep=last)
        return out.logits.float()

    def _greedy(self, ids: np.ndarray, n_tokens: int) -> np.ndarray:
        tokens = []
        for _ in range(n_tokens):
            ids = self._forward(ids)[:, -1:].argmax(-1).cpu().numpy()
            tokens.append(ids)
        return np.concatenate(tokens, axis=1)

    def _forget(self) -> None:
        self.cache.crop(self.length - self.cache.get_seq_length())

    def ask(self, questions: np.ndarray, last: int = 1) -> torch.Tensor:
        """Logits [B, last, vocabulary] after each of the last tokens of the questions, ids [B, q]; then forget them."""
        logits = self._forward(questions, last)
        self._forget()
        return logits

    def generate(self, questions: np.ndarray, n_tokens: int) -> np.ndarray:
        """The greedy continuation [B, n_tokens] of the questions, ids [B, q]; then forget it."""
        answers = self._greedy(questions, n_tokens)
        self._forget()
        return answers

    def converse(self, turns: list[np.ndarray], n_tokens: int, close: np.ndarray) -> np.ndarray:
        """Ask several questions one after the other, each greedy answer of n_tokens staying in the context.

        Args: turns: Q arrays of ids [B, q]; close: ids that end an answer. Returns answers [B, Q, n_tokens]; then
        forgets all.
        """
        answers: list[np.ndarray] = []
        for turn in turns:
            if answers:
                # The last token of an answer has been given, but not read yet.
                closed = np.tile(close, (len(turn), 1))
                turn = np.concatenate([answers[-1][:, -1:], closed, turn], axis=1)
            answers.append(self._greedy(turn, n_tokens))
        self._forget()
        return np.stack(answers, axis=1)
