"""A guard to run before training: position ids that skip must not cut the attention between segments.

Transformers takes position ids that jump, when it sees neither mask nor cache, for several packed documents, and hides
each from the others. Nothing fails and the loss falls, but no token learns to look across a jump.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import transformers
from transformers import PreTrainedModel

MAX_TOKENS = 24  # three segments of eight: enough for a jump behind a jump, cheap on any model
MIN_TOKENS = 6  # below this a segment has no inner token
MAX_GAP = 100  # small, so that RoPE types that switch tables at long positions keep theirs
MAX_DRAWS = 8  # dropout may hide a token in one draw, hardly in eight


class SkippedPositionsError(RuntimeError):
    """The attention of this model is wrong, or cannot be judged, when position ids skip."""


def check_skipped_positions(model: PreTrainedModel, with_mask: bool = True) -> None:
    """Prove by gradients that attention crosses the jumps of skipped positions, and stays causal (section 4.2).

    For embeddings e_s and a random projection w of the logits z_t at probe t, with position ids that jump:
    d(w . z_t)/d e_s must be above 0 for every s <= t, on both sides of a jump, and exactly 0 for every s > t.

    It runs the model as training does: train mode, no cache, the attention, dtype, autocast and gradient checkpointing
    in force, batches of 1 and of 2 (packing is looked for in batches of 1 only by some versions). One forward pass
    serves one gradient, so dropout is the same constant for both: it cannot fake a path. Moving a token and comparing
    two passes would find differences that are dropout noise alone. Masked attention weighs exactly 0, so do its
    gradients. Grads, requires_grad, modes, hooks and random states are left as they were.

    Args:
        model: a causal language model of transformers, on any device.
        with_mask: give the all-ones attention_mask that training batches must have.

    Raises:
        SkippedPositionsError: a token before a jump does not move the logits after it, a later token moves earlier
            logits, or a gradient is not finite.
        ValueError: the model's window is too short for three segments.
    """
    n_tokens, gap = _layout(model)
    generator = torch.Generator().manual_seed(0)
    with _no_trace(model):
        for n_rows in (1, 2):
            positions = skipping_positions(n_rows, n_tokens, gap)
            batch = _batch(model, positions, with_mask, generator)
            jumps = (positions.diff(dim=-1) > 1).any(dim=0).nonzero().flatten() + 1
            # Token 1 has nearly all others after it, so it is the sharpest probe for causality.
            for probe in sorted({1, n_tokens - 1, *jumps.tolist()}):
                influence = torch.zeros(n_rows, n_tokens)
                for _ in range(MAX_DRAWS):
                    influence += token_influence(model, batch, probe, generator).cpu()
                    if (influence[:, : probe + 1] > 0).all():
                        break
                _judge(model, influence, positions, probe, with_mask)


def skipping_positions(n_rows: int, n_tokens: int, gap: int) -> torch.Tensor:
    """Lay out three segments with `gap` positions left out between neighbours (section 4.2), the first from 0.

    Six tokens and a gap of 10 give 0 1 12 13 24 25. Each further row starts its segments one token later, as every
    training example has jumps of its own.

    Returns:
        int64 [n_rows, n_tokens], the last one n_tokens - 1 + 2 * gap.
    """
    index = torch.arange(n_tokens).expand(n_rows, -1)
    row = torch.arange(n_rows)[:, None]
    third = n_tokens // 3
    return index + gap * (index >= third + row) + gap * (index >= 2 * third + row)


def token_influence(
    model: PreTrainedModel, batch: dict[str, torch.Tensor], probe: int, generator: torch.Generator
) -> torch.Tensor:
    """Measure how every input token moves the logits of one: max_k |d(w . z_probe) / d e_s[k]|, w ~ N(0, 1).

    Leaves its gradients in the parameters too, unless these are frozen.

    Args:
        model: a causal language model, run in its present mode.
        batch: input_ids, position_ids and perhaps attention_mask, all [rows, tokens].
        probe: index of the token whose logits are projected, in every row.
        generator: CPU generator of w.

    Returns:
        float32 [rows, tokens]. A maximum and no Euclidean norm, as squares of small gradients underflow to 0.

    Raises:
        SkippedPositionsError: no gradient came back to the input embeddings.
    """
    embedded: list[torch.Tensor] = []

    def detach(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_(True))
        return embedded[-1]

    handle = model.get_input_embeddings().register_forward_hook(detach)
    try:
        logits = model(**batch, use_cache=False, return_dict=True).logits[:, probe].float()
        projection = torch.randn(logits.shape, generator=generator).to(logits.device)
        # backward() and no autograd.grad: reentrant gradient checkpointing refuses the latter.
        (logits * projection).sum().backward()
    finally:
        handle.remove()
    if len(embedded) != 1 or embedded[0].grad is None:
        raise SkippedPositionsError(
            f"{type(model).__name__} called its input embeddings {len(embedded)} times and sent no gradient back to "
            "them, so its attention cannot be judged; pass the bare transformers model, not a wrapper around it"
        )
    return embedded[0].grad.float().abs().amax(dim=-1)


@contextmanager
def _no_trace(model: PreTrainedModel) -> Iterator[None]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters()}
    with torch.random.fork_rng([device for device in devices if device.type not in ("cpu", "meta")]):
        try:
            # Frozen parameters collect no .grad, so there is none to put back, nor memory for it.
            for parameter in trained:
                parameter.requires_grad_(False)
            model.train()
            with torch.enable_grad():
                yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
            # Module by module: a caller may hold a part of the model in eval mode.
            for module, training in modes:
                module.training = training


def _layout(model: PreTrainedModel) -> tuple[int, int]:
    config = model.config.get_text_config()
    n_positions = getattr(config, "max_position_embeddings", None) or MAX_TOKENS + 2 * MAX_GAP
    # Within a sliding window every token is in reach; beyond it a cut would be the model's own design.
    reach = getattr(config, "sliding_window", None) or MAX_TOKENS
    n_tokens = min(MAX_TOKENS, reach, n_positions - 2)
    if n_tokens < MIN_TOKENS:
        raise ValueError(
            f"max_position_embeddings is {n_positions} and the sliding window {reach}, too short for three segments "
            f"with jumps; they must be at least {MIN_TOKENS + 2} and {MIN_TOKENS}, so use a config with longer ones"
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
    model: PreTrainedModel, influence: torch.Tensor, positions: torch.Tensor, probe: int, with_mask: bool
) -> None:
    n_rows = len(positions)
    implementation = getattr(model.config.get_text_config(), "_attn_implementation", None)
    where = f"attn_implementation {implementation!r} of transformers {transformers.__version__}, batch size {n_rows}"
    if not influence.isfinite().all():
        raise SkippedPositionsError(
            f"The gradients of the logits of token {probe} are not finite ({where}), so the attention cannot be "
            "judged; look for NaN in the weights, or load the model in bfloat16 or float32"
        )
    leaks = influence[:, probe + 1 :].nonzero()
    if len(leaks):
        later = sorted({probe + 1 + token for token in leaks[:, 1].tolist()})
        raise SkippedPositionsError(
            f"Not causal: the later tokens {later} move the logits of token {probe} ({where}). Load the model as a "
            "causal one, without hooks that mix tokens, or with another attn_implementation, such as 'sdpa'"
        )
    cuts = (influence[:, : probe + 1] == 0).nonzero()
    if not len(cuts):
        return
    row = int(cuts[0, 0])
    cut = cuts[cuts[:, 0] == row, 1]
    segment = (positions[row].diff(prepend=positions[row, :1]) > 1).cumsum(0)
    segments = sorted(set(segment[cut].tolist()))
    cure = "put an all-ones attention_mask in every batch, or load the model with another attn_implementation"
    if with_mask:
        cure = (
            "this batch had its all-ones attention_mask, so keep that and load the model with another "
            "attn_implementation, such as 'sdpa' or 'eager'"
        )
    raise SkippedPositionsError(
        f"Skipped positions cut the attention: tokens {cut.tolist()} (segment {', '.join(map(str, segments))}) do not "
        f"move the logits of token {probe} (segment {int(segment[probe])}; {where}). Most likely the jump after "
        f"position {int(positions[row, cut[-1]])} is taken for the border of two packed documents, so that every "
        f"segment would train alone. Cure: {cure}, and run this check again"
    )
