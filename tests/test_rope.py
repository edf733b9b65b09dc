import copy
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GPT2Config, LlamaConfig, MistralConfig, Qwen2Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from longrecipe.models.rope import extend_config, head_dim, ntk_base, rope_keys, rope_theta, wavelengths
from longrecipe.models.rope_rules import RULES

# (base, window, target_length) and the base printed in the paper's Table 4, all with d = 128.
TABLE_4 = [
    (500_000, 8192, 81_920, 48.9e6),
    (500_000, 8192, 131_072, 131.5e6),
    (1_000_000, 32_768, 131_072, 13.5e6),
]
bases = st.floats(1e3, 1e7)
even = st.integers(2, 128).map(lambda half: 2 * half)
windows = st.integers(1, 1 << 17)


@pytest.mark.parametrize(("base", "window", "target_length", "printed"), TABLE_4)
def test_rule_gives_the_bases_of_table_4(base, window, target_length, printed):
    assert ntk_base(base, head_dim=128, window=window, target_length=target_length) == pytest.approx(
        printed, abs=0.05e6
    )  # printed to 0.1M


def test_rule_equals_dynamic_ntk_of_transformers():
    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 3.0},
    )
    inv_freq, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, device="cpu", seq_len=1024)
    base = ntk_base(10_000.0, head_dim=16, window=256, target_length=1024, factor=3.0)
    np.testing.assert_allclose(wavelengths(base, 16), 2 * np.pi / inv_freq.numpy(), rtol=1e-5)


@given(base=bases, d=even, window=windows, factor=st.none() | st.floats(1, 100))
def test_same_window_keeps_the_base(base, d, window, factor):
    assert ntk_base(base, head_dim=d, window=window, target_length=window, factor=factor) == base


@given(base=bases, d=even, window=windows, more=st.integers(1, 1000), factor=st.floats(1, 100))
def test_base_grows_with_target_and_factor(base, d, window, more, factor):
    target_length = window + more
    assert (
        base
        < ntk_base(base, head_dim=d, window=window, target_length=target_length)
        < ntk_base(base, head_dim=d, window=window, target_length=target_length + more)
    )
    assert ntk_base(base, head_dim=d, window=window, target_length=target_length, factor=factor) <= ntk_base(
        base, head_dim=d, window=window, target_length=target_length, factor=factor + 1
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": 0}, "base is 0"),
        ({"base": float("nan")}, "base is nan"),
        ({"base": float("inf")}, "base is inf"),
        ({"head_dim": 2}, "head_dim is 2"),
        ({"head_dim": 7}, "head_dim is 7"),
        ({"window": 0}, "window is 0"),
        ({"target_length": 255}, "target_length is 255, below the window of 256"),
        ({"factor": 0.5}, "factor is 0.5"),
        ({"factor": float("nan")}, "factor is nan"),
    ],
)
def test_invalid_values_are_an_error(changes, message):
    arguments = {"base": 1e4, "head_dim": 32, "window": 256, "target_length": 4096} | changes
    with pytest.raises(ValueError, match=message):
        ntk_base(**arguments)


def test_wavelengths_are_in_tokens():
    lambdas = wavelengths(10_000.0, 8)
    np.testing.assert_allclose(lambdas, 2 * np.pi * np.array([1, 10, 100, 1000]))
    assert lambdas.dtype == np.float64
    assert (np.diff(wavelengths(500_000, 128)) > 0).all()
    with pytest.raises(ValueError, match="head_dim is 5"):
        wavelengths(10_000.0, 5)
    with pytest.raises(ValueError, match="base is -1"):
        wavelengths(-1, 8)


@pytest.mark.parametrize("family", [LlamaConfig, MistralConfig, Qwen2Config])
def test_extend_config_copies_and_raises_the_base(family, tmp_path):
    config = family(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
    )
    before = copy.deepcopy(config.to_dict())
    extended = extend_config(config, 4096)
    assert config.to_dict() == before
    assert type(extended) is family
    assert rope_theta(extended) == ntk_base(500_000.0, head_dim=16, window=256, target_length=4096)
    assert extended.max_position_embeddings == 4096
    extended.save_pretrained(tmp_path)
    assert family.from_pretrained(tmp_path).rope_parameters == extended.rope_parameters


def test_extend_config_uses_factor_and_window():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, max_position_embeddings=1024)
    extended = extend_config(config, 4096, factor=2.0, window=512)
    assert rope_theta(extended) == ntk_base(10_000.0, head_dim=16, window=512, target_length=4096, factor=2.0)
    with pytest.raises(ValueError, match="below the window of 1024"):
        extend_config(config, 512)


def test_model_uses_the_raised_base():
    from transformers import LlamaForCausalLM

    small = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = extend_config(LlamaConfig(**small, num_attention_heads=2, max_position_embeddings=64), 1024)
    inv_freq = LlamaForCausalLM(config).model.rotary_emb.inv_freq
    np.testing.assert_allclose(2 * np.pi / inv_freq.numpy(), wavelengths(rope_theta(config), 16), rtol=1e-5)


def test_rule_uses_the_rotated_part_of_a_head():
    from transformers import PhiConfig

    config = PhiConfig(hidden_size=64, num_attention_heads=2, max_position_embeddings=256)
    assert config.rope_parameters["partial_rotary_factor"] == 0.5
    assert rope_theta(extend_config(config, 1024)) == ntk_base(10_000.0, head_dim=16, window=256, target_length=1024)


def test_configurations_of_older_transformers_work():
    config = SimpleNamespace(
        rope_theta=10_000.0,
        rope_scaling=None,
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=256,
    )
    extended = extend_config(config, 1024)
    assert head_dim(config) == 16
    assert extended.rope_theta == ntk_base(10_000.0, head_dim=16, window=256, target_length=1024)
    assert config.rope_theta == 10_000.0
    config.rope_scaling = {"type": "linear", "factor": 2.0}
    with pytest.raises(ValueError, match="'linear'"):
        extend_config(config, 1024)


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {"rope_type": "linear", "factor": 4.0},
    ],
)
def test_other_rope_types_are_an_error(parameters):
    config = LlamaConfig(rope_parameters=parameters | {"rope_theta": 10_000.0}, max_position_embeddings=256)
    with pytest.raises(ValueError, match=f"rope_type is '{parameters['rope_type']}'"):
        extend_config(config, 1024)


def test_separate_rope_for_each_layer_type_is_an_error():
    from transformers import Gemma3TextConfig

    with pytest.raises(ValueError, match="sliding_attention"):
        extend_config(Gemma3TextConfig(), 1 << 18)


def test_model_without_rope_is_an_error():
    with pytest.raises(ValueError, match="GPT2Config has no rope_theta"):
        extend_config(GPT2Config(), 4096)


def test_sliding_window_below_the_target_is_an_error():
    config = MistralConfig(sliding_window=4096, max_position_embeddings=2048)
    with pytest.raises(ValueError, match=r"MistralConfig has a sliding window of 4096 tokens.*target_length of 4096"):
        extend_config(config, 8192)
    assert extend_config(config, 4096).max_position_embeddings == 4096
    # Qwen2 can switch its sliding window off.
    unused = Qwen2Config(sliding_window=4096, use_sliding_window=False, max_position_embeddings=2048)
    assert extend_config(unused, 8192).max_position_embeddings == 8192


def test_head_dim_of_the_configuration_is_used_first():
    assert head_dim(LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=32)) == 32
    assert head_dim(SimpleNamespace(head_dim=None, hidden_size=64, num_attention_heads=4)) == 16


# other rules


def network_of(rule, **options):
    from transformers import LlamaForCausalLM

    small = {"vocab_size": 16, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**small, num_attention_heads=2, max_position_embeddings=256, rope_theta=1e4)
    config = extend_config(config, 4096, rule=rule, **options)
    return config, LlamaForCausalLM(config).model.rotary_emb


@pytest.mark.parametrize(("factor", "scale"), [(None, 16), (4.0, 4)])
def test_rotations_of_the_rules_are_those_of_their_papers(factor, scale):
    lambdas = wavelengths(1e4, 32)
    plain = 2 * np.pi / lambdas

    def rotations(rule):
        config, rotary = network_of(rule, factor=factor)
        assert config.max_position_embeddings == 4096
        return rotary.inv_freq.numpy(), rotary.attention_scaling

    found, scaling = rotations("pi")
    np.testing.assert_allclose(found, plain / scale, rtol=1e-5)
    assert scaling == 1

    found, scaling = rotations("yarn")
    turns = 256 / lambdas
    np.testing.assert_allclose(found[turns > 32], plain[turns > 32], rtol=1e-5)
    np.testing.assert_allclose(found[turns < 1][1:], plain[turns < 1][1:] / scale, rtol=1e-5)
    assert (np.diff(found / plain) <= 1e-6).all()
    assert scaling == pytest.approx(0.1 * np.log(scale) + 1)

    found, scaling = rotations("llama3")
    np.testing.assert_allclose(found[lambdas < 64], plain[lambdas < 64], rtol=1e-5)
    np.testing.assert_allclose(found[lambdas > 256], plain[lambdas > 256] / scale, rtol=1e-5)
    between = (lambdas > 64) & (lambdas < 256)
    assert between.any() and (found[between] < plain[between]).all() and (found[between] > plain[between] / scale).all()
    assert scaling == 1

    found, scaling = rotations("entropy_abf")
    np.testing.assert_allclose(found, 2 * np.pi / wavelengths(1e4 * (factor or 50), 32), rtol=1e-5)
    # Queries and keys are both multiplied, so logits are multiplied by ln T / ln W.
    assert scaling**2 == pytest.approx(np.log(4096) / np.log(256))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_written_under_the_names_that_readers_use(rule, tmp_path):
    config, _ = network_of(rule)
    config.save_pretrained(tmp_path)
    again = LlamaConfig.from_pretrained(tmp_path)
    assert again.rope_parameters == config.rope_parameters
    keys = rope_keys(config)
    kind = {"ntk": "default", "pi": "linear", "entropy_abf": "yarn"}.get(rule, rule)
    assert keys["rope_parameters"]["rope_type"] == kind and keys["rope_theta"] == rope_theta(config)
    assert ("rope_scaling" in keys) == (kind != "default")
    if kind != "default":
        assert keys["rope_scaling"]["rope_type"] == kind and keys["rope_scaling"]["factor"] > 0
        # The model is extended now, and cannot be extended again.
        with pytest.raises(ValueError, match=f"rope_type is '{kind}'"):
            extend_config(config, 8192)


def test_rules_of_older_configurations_are_in_rope_scaling():
    config = SimpleNamespace(
        rope_theta=1e4, rope_scaling=None, hidden_size=64, num_attention_heads=4, max_position_embeddings=256
    )
    extended = extend_config(config, 1024, rule="pi")
    assert (extended.rope_theta, extended.rope_scaling) == (1e4, {"rope_type": "linear", "factor": 4.0})


def test_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="rope_rule is 'ntq'; allowed are ntk, pi, yarn, llama3, entropy_abf"):
        extend_config(LlamaConfig(max_position_embeddings=256), 4096, rule="ntq")
