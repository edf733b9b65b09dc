import re

import pytest
import torch
import transformers
from transformers import (
    AttentionInterface,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from longrecipe.train.guard import (
    SkippedPositionsError,
    check_skipped_positions,
    skipping_positions,
    token_influence,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
}


def tiny(family="llama", attention="sdpa", **settings):
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(0)
    config = config_class(
        **{
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "attn_implementation": attention,
        }
        | settings
    )
    return model_class(config)


def checkpointed(model, use_reentrant):
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    return model


def register(monkeypatch, name, function):
    # Like AttentionInterface.register, but undone after the test.
    monkeypatch.setitem(AttentionInterface._global_mapping, name, function)


def state_of(model):
    return {
        "grads": {name: parameter.grad for name, parameter in model.named_parameters()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: len(module._forward_hooks) for name, module in model.named_modules()},
    }


def test_skipping_positions_example():
    assert skipping_positions(2, 6, 10).tolist() == [[0, 1, 12, 13, 24, 25], [0, 1, 2, 13, 14, 25]]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_passes_with_mask_and_fails_without(family, attention):
    model = tiny(family, attention)
    check_skipped_positions(model)
    with pytest.raises(SkippedPositionsError) as caught:
        check_skipped_positions(model, with_mask=False)
    message = str(caught.value)
    for needed in ("(segment 0)", repr(attention), transformers.__version__, "all-ones attention_mask to every batch"):
        assert needed in message
    assert re.search(r"tokens \[0, 1, .*, 7\]", message)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_works_with_activation_checkpointing(attention, use_reentrant):
    model = checkpointed(tiny(attention=attention), use_reentrant)
    calls = []
    model.model.layers[0].input_layernorm.register_forward_hook(lambda *_: calls.append(1))
    check_skipped_positions(model)
    assert len(calls) == 2 * (4 + 6)  # each of 4 and 6 probes ran the layer twice, so it was recomputed
    with pytest.raises(SkippedPositionsError, match="cut the attention"):
        check_skipped_positions(model, with_mask=False)


def test_works_with_checkpointing_and_inputs_that_require_grads():
    # Like peft does with a frozen model: adds a hook on the embeddings first.
    model = checkpointed(tiny(), use_reentrant=True).requires_grad_(False)
    model.enable_input_require_grads()
    before = state_of(model)
    check_skipped_positions(model)
    assert state_of(model) == before


@pytest.mark.parametrize("use_reentrant", [None, False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_dropout_does_not_change_the_result(family, use_reentrant):
    model = tiny(family, attention_dropout=0.5)
    if use_reentrant is not None:
        checkpointed(model, use_reentrant)
    check_skipped_positions(model)
    with pytest.raises(SkippedPositionsError, match="cut the attention"):
        check_skipped_positions(model, with_mask=False)


def test_passes_with_one_head_and_heavy_dropout():
    check_skipped_positions(
        tiny(num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, attention_dropout=0.3)
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_works_in_bfloat16_and_under_autocast(attention):
    low = tiny(attention=attention).to(torch.bfloat16)
    check_skipped_positions(low)
    with pytest.raises(SkippedPositionsError):
        check_skipped_positions(low, with_mask=False)
    mixed = checkpointed(tiny(attention=attention), use_reentrant=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        check_skipped_positions(mixed)
        with pytest.raises(SkippedPositionsError):
            check_skipped_positions(mixed, with_mask=False)


def test_works_under_no_grad():
    with torch.no_grad():
        check_skipped_positions(tiny())
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("use_reentrant", [None, False, True])
def test_influence_of_later_tokens_is_detected(use_reentrant):
    model = tiny()
    if use_reentrant is not None:
        checkpointed(model, use_reentrant)
    model.model.layers[0].mlp.register_forward_hook(lambda module, args, out: out + out.mean(dim=1, keepdim=True))
    with pytest.raises(SkippedPositionsError, match=r"Not causal: the later tokens \[2, 3, .* token 1 "):
        check_skipped_positions(model)


def test_bidirectional_attention_is_detected(monkeypatch):
    def both_ways(module, *states_and_mask, **options):
        return sdpa_attention_forward(module, *states_and_mask[:3], None, is_causal=False, **options)

    register(monkeypatch, "both_ways", both_ways)
    with pytest.raises(SkippedPositionsError, match="Not causal"):
        check_skipped_positions(tiny(attention="both_ways"))


@pytest.mark.parametrize("n_rows", [1, 2])
def test_cut_despite_the_mask_is_detected_at_both_batch_sizes(monkeypatch, n_rows):
    def packs(module, *states_and_mask, position_ids=None, **options):
        if position_ids.shape[0] != n_rows:
            return sdpa_attention_forward(module, *states_and_mask[:3], None, is_causal=True, **options)
        segment = (position_ids.diff(dim=-1, prepend=position_ids[:, :1]) > 1).cumsum(-1)
        mask = (segment[:, :, None] == segment[:, None, :]).tril()[:, None]
        return sdpa_attention_forward(module, *states_and_mask[:3], mask, is_causal=False, **options)

    register(monkeypatch, "packs", packs)
    model = tiny(attention="packs")
    with pytest.raises(SkippedPositionsError) as caught:
        check_skipped_positions(model)
    message = str(caught.value)
    assert f"batch size {n_rows}" in message
    assert "already had an all-ones attention_mask, so load the model with another attn_implementation" in message


def test_cut_at_only_the_second_jump_is_detected(monkeypatch):
    def late(module, *states_and_mask, position_ids=None, **options):
        last = (position_ids.diff(dim=-1, prepend=position_ids[:, :1]) > 1).cumsum(-1) == 2
        mask = (last[:, :, None] == last[:, None, :]).tril()[:, None]
        return sdpa_attention_forward(module, *states_and_mask[:3], mask, is_causal=False, **options)

    register(monkeypatch, "late", late)
    cut = r"\(segment 0, 1\) do not influence the logits of token 16 \(segment 2"
    with pytest.raises(SkippedPositionsError, match=cut):
        check_skipped_positions(tiny(attention="late"))


def test_gradients_that_are_not_finite_are_an_error():
    model = tiny()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(SkippedPositionsError, match="not finite"):
        check_skipped_positions(model)


@pytest.mark.parametrize("training", [True, False])
def test_model_and_random_state_are_restored(training):
    model = tiny(attention_dropout=0.1).train(training)
    model.model.layers[1].train(not training)
    model.model.norm.weight.requires_grad_(False)
    for index, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, index) if index % 2 else None
    before, rng = state_of(model), torch.get_rng_state()
    values = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    grads = {name: grad.clone() for name, grad in before["grads"].items() if grad is not None}

    check_skipped_positions(model)
    with pytest.raises(SkippedPositionsError):
        check_skipped_positions(model, with_mask=False)

    after = state_of(model)
    assert all(after["grads"][name] is grad for name, grad in before["grads"].items())
    assert all(torch.equal(after["grads"][name], grad) for name, grad in grads.items())
    assert all(torch.equal(parameter, values[name]) for name, parameter in model.named_parameters())
    for part in ("requires_grad", "modes", "hooks"):
        assert after[part] == before[part]
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("part", ["lm_head", "model.embed_tokens"])
def test_model_and_random_state_are_restored_after_an_error(monkeypatch, part):
    model = tiny().eval()
    before, rng = state_of(model), torch.get_rng_state()

    def fails(*args, **kwargs):
        torch.rand(3)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model.get_submodule(part), "forward", fails)
        with pytest.raises(KeyboardInterrupt):
            check_skipped_positions(model)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


def test_message_does_not_depend_on_the_random_state():
    messages = []
    for seed in (1, 2):
        model = tiny()
        torch.manual_seed(seed)
        with pytest.raises(SkippedPositionsError) as caught:
            check_skipped_positions(model, with_mask=False)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("n_positions", [8, 9, 25, 26, 27])
def test_adapts_to_short_windows(n_positions):
    model = tiny(max_position_embeddings=n_positions)
    seen = []
    model.model.rotary_emb.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    check_skipped_positions(model)
    assert max(int(positions.max()) for positions in seen) < n_positions
    assert all((positions.diff() > 1).sum(dim=-1).eq(2).all() for positions in seen)
    with pytest.raises(SkippedPositionsError):
        check_skipped_positions(model, with_mask=False)


def test_window_that_is_too_short_is_an_error():
    with pytest.raises(ValueError, match="max_position_embeddings is 7"):
        check_skipped_positions(tiny(max_position_embeddings=7))


def test_sliding_windows_are_not_reported_as_cuts():
    check_skipped_positions(tiny("mistral", sliding_window=8, num_hidden_layers=1))
    with pytest.raises(ValueError, match="sliding window is 4"):
        check_skipped_positions(tiny("mistral", sliding_window=4))


def test_token_influence_fails_if_the_embeddings_get_no_gradient(monkeypatch):
    model = tiny().requires_grad_(False)
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    influence = token_influence(model, batch, 1, generator=torch.Generator().manual_seed(0))
    assert (influence > 0).tolist() == [[True, True, False]]
    model.model.layers[0].register_forward_hook(lambda module, args, out: out.detach().requires_grad_(True))
    with pytest.raises(SkippedPositionsError, match="they got no gradient"):
        token_influence(model, batch, 1, generator=torch.Generator().manual_seed(0))
