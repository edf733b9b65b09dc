"""A check to run before training: skipped positions must not cut the attention between segments.

If transformers gets position ids that jump, and neither a mask nor a cache, it assumes several packed documents and
hides them from each other. Nothing fails and the loss falls, but no token learns to attend across a jump.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from transformers import PreTrainedModel

MAX_TOKENS = 24  # three segments of eight: enough for two jumps, cheap on any model
MIN_TOKENS = 6  # with fewer, a segment has no inner token
MAX_GAP = 100  # small, so that RoPE types with another table for long positions do not use it
MAX_DRAWS = 8  # dropout may hide a token in one draw, but hardly in all eight


class SkippedPositionsError(RuntimeError):
    """The attention of this model is wrong with skipped positions, or cannot be checked."""


def check_skipped_positions(model: PreTrainedModel, with_mask: bool = True) -> None:
    """Check, using gradients, that attention crosses the jumps of skipped positions and is causal (section 4.2).

    For embeddings e_s and a random projection w of the logits z_t at probe t, with position ids that jump:
    d(w . z_t)/d e_s must not be 0 for any s <= t, on both sides of a jump, and must be exactly 0 for every s > t.

    The model runs as in training: in train mode, without a cache, with its attention, dtype, autocast and gradient
    checkpointing, on batches of 1 and of 2 rows (some versions detect packing only in batches of 1). Each gradient
    comes from a single forward pass, in which dropout is constant, so dropout cannot fake a path. Comparing two passes
    with a changed token would measure dropout noise. A masked token has weight 0 and so a gradient of exactly 0.
    Gradients, requires_grad, modes, hooks and random states are restored.

    Args:
        model: a causal language model of transformers, on any device.
        with_mask: pass the all-ones attention_mask that training batches must have.

    Raises:
        SkippedPositionsError: a token before a jump does not influence the logits after it, a later token influences
            earlier logits, or a gradient is not finite.
        ValueError: the model's window is too short for three segments.
    """
    n_tokens, gap = _layout(model)
    generator = torch.Generator().manual_seed(0)
    with _restored(model):
        for n_rows in (1, 2):
            positions = skipping_positions(n_rows, n_tokens, gap)
            batch = _batch(model, positions, with_mask, generator)
            jumps = (positions.diff(dim=-1) > 1).any(dim=0).nonzero().flatten() + 1
            # Nearly all other tokens come after token 1, so it is the best probe for causality.
            for probe in sorted({1, n_tokens - 1, *jumps.tolist()}):
                influence = torch.zeros(n_rows, n_tokens)
                for _ in range(MAX_DRAWS):
                    influence += token_influence(model, batch, probe, generator=generator).cpu()
                    if (influence[:, : probe + 1] > 0).all():
                        break
                _judge(model, influence, positions, probe=probe, with_mask=with_mask)


def skipping_positions(n_rows: int, n_tokens: int, gap: int) -> torch.Tensor:
    """Positions of three segments that start at 0, with `gap` positions skipped between neighbours (section 4.2).

    Six tokens and a gap of 10 give 0 1 12 13 24 25. In each further row the segments start one token later, because
    every training sample has its own jumps.

    Returns:
        int64 [n_rows, n_tokens]; the last position is n_tokens - 1 + 2 * gap.
    """
    index = torch.arange(n_tokens).expand(n_rows, -1)
    row = torch.arange(n_rows)[:, None]
    third = n_tokens // 3
    return index + gap * (index >= third + row) + gap * (index >= 2 * third + row)


def token_influence(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], probe: int, *, generator: torch.Generator
) -> torch.Tensor:
    """Measure how each input token influences the logits of one token: max_k |d(w . z_probe) / d e_s[k]|, w ~ N(0, 1).

    Also adds gradients to the parameters, unless they are frozen.

    Args:
        model: a causal language model, run in its current mode.
        batch: input_ids, position_ids and optionally attention_mask, all [rows, tokens].
        probe: index of the token whose logits are projected, in every row.
        generator: CPU generator of w.

    Returns:
        float32 [rows, tokens]. A maximum and not the Euclidean norm, because squares of small gradients underflow to 0.

    Raises:
        SkippedPositionsError: the input embeddings got no gradient.
    """
    embedded: list[torch.Tensor] = []

    def detach(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(detach)
    try:
        logits = model(**batch, use_cache=False, return_dict=True).logits[:, probe].float()
        projection = torch.randn(logits.shape, generator=generator).to(logits.device)
        # Not autograd.grad: reentrant gradient checkpointing does not support it.
        (logits * projection).sum().backward()
    finally:
        handle.remove()
    if len(embedded) != 1 or embedded[0].grad is None:
        raise SkippedPositionsError(
            f"{type(model).__name__} called its input embeddings {len(embedded)} times, and they got no gradient, "
            "so its attention cannot be checked; pass the transformers model itself, not a wrapper around it"
        )
    return embedded[0].grad.float().abs().amax(dim=-1)


@contextmanager
def _restored(model: PreTrainedModel) -> Iterator[None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters()}
    with torch.random.fork_rng([device for device in devices if device.type not in ("cpu", "meta")]):
        try:
            # Frozen parameters get no .grad, which would have to be restored and would take memory.
            for parameter in trained:
                parameter.requires_grad_(False)
            model.train()
            with torch.enable_grad():
                yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            # Module by module: the caller may have set a part of the model to eval mode.
            for module, training in modes:
                module.training = training


def _layout(model: PreTrainedModel) -> tuple[int, int]:
    config = model.config.get_text_config()
    n_positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS + 2 * MAX_GAP
    # Within a sliding window each token sees all others; beyond it, the model cuts the attention on purpose.
    reach = getattr(config, "sliding_window", None) or MAX_TOKENS
    n_tokens = min(MAX_TOKENS, reach, n_positions - 2)
    if n_tokens < MIN_TOKENS:
        raise ValueError(
            f"max_position_embeddings is {n_positions} and the sliding window is {reach}: too short for three segments "
            f"with jumps. Use a configuration with at least {MIN_TOKENS + 2} and {MIN_TOKENS}."
        )
    return n_tokens, min(MAX_GAP, (n_positions - n_tokens) // 2)


def _batch(
    model: PreTrainedModel, positions: torch.Tensor, with_mask: bool, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    device = model.get_input_embeddings().weight.device
    vocab_size = model.config.get_text_config().vocab_size
    input_ids = torch.randint(vocab_size, positions.shape, generator=generator)
    batch = {"input_ids": input_ids.to(device), "position_ids": positions.to(device)}
    if with_mask:
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    return batch


def _judge(
    model: PreTrainedModel, influence: torch.Tensor, positions: torch.Tensor, *, probe: int, with_mask: bool
) -> None:
    n_rows = len(positions)
    implementation = getattr(model.config.get_text_config(), "_attn_implementation", None)
    setting = f"attn_implementation {implementation!r} of transformers {transformers.__version__}, batch size {n_rows}"
    if not influence.isfinite().all():
        raise SkippedPositionsError(
            f"The gradients of the logits of token {probe} are not finite ({setting}), so the attention cannot "
            "be checked; look for NaN in the weights, or load the model in bfloat16 or float32"
        )
    leaks = influence[:, probe + 1 :].nonzero()
    if len(leaks):
        later = sorted({probe + 1 + token for token in leaks[:, 1].tolist()})
        raise SkippedPositionsError(
            f"Not causal: the later tokens {later} influence the logits of token {probe} ({setting}). Load the model "
            "as a causal model, without hooks that mix tokens, or with another attn_implementation, such as 'sdpa'"
        )
    cuts = (influence[:, : probe + 1] == 0).nonzero()
    if not len(cuts):
        return
    row = int(cuts[0, 0])
    cut = cuts[cuts[:, 0] == row, 1]
    segment = (positions[row].diff(prepend=positions[row, :1]) > 1).cumsum(0)
    segments = sorted(set(segment[cut].tolist()))
    fix = "add an all-ones attention_mask to every batch, or load the model with another attn_implementation"
    if with_mask:
        fix = (
            "this batch already had an all-ones attention_mask, so load the model with another attn_implementation, "
            "such as 'sdpa' or 'eager'"
        )
    raise SkippedPositionsError(
        f"Skipped positions cut the attention: tokens {cut.tolist()} (segment {', '.join(map(str, segments))}) do not "
        f"influence the logits of token {probe} (segment {int(segment[probe])}; {setting}). The model probably takes "
        f"the jump after position {int(positions[row, cut[-1]])} for the border of two packed documents, so each "
        f"segment would be trained alone. To fix it, {fix}, and run this check again"
    )
