import pytest
from transformers import LlamaConfig

from longrecipe.cost import training_flops
from longrecipe.models import new_mini

CONFIG = LlamaConfig(
    vocab_size=10,
    hidden_size=8,
    num_hidden_layers=3,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=6,
    tie_word_embeddings=True,
)


def test_flops_by_hand():
    # A token: 6 for each parameter, and 12 for each layer, head, dimension of a head and half of the 50 tokens.
    assert training_flops(CONFIG, n_parameters=1000, n_tokens=1, length=50) == 6 * 1000 + 12 * 3 * 2 * 6 * 25
    assert training_flops(CONFIG, n_parameters=1000, n_tokens=400, length=50) == 400 * (6000 + 10_800)
    # The second term grows with the length of a sample, the first one does not.
    assert training_flops(CONFIG, n_parameters=1000, n_tokens=1, length=100) == 6000 + 21_600


def test_input_embeddings_of_their_own_multiply_nothing():
    untied = LlamaConfig(**CONFIG.to_dict() | {"tie_word_embeddings": False})
    # 80 more parameters, and not one more multiplication.
    assert training_flops(untied, 1080, 7, 50) == training_flops(CONFIG, 1000, 7, 50)
    mini, own_head = new_mini("llama3", seed=0), new_mini("mistral", seed=0)
    assert own_head.num_parameters() - mini.num_parameters() == 1024 * 128
    ones, others = (training_flops(each.config, each.num_parameters(), 1000, 256) for each in (mini, own_head))
    assert ones == others


def test_skipping_positions_costs_a_sixth_of_full_length_training():
    network = new_mini("llama3", seed=0)
    recipe, full = (training_flops(network.config, network.num_parameters(), n, n) for n in (int(0.3 * 4096), 4096))
    assert recipe / full == pytest.approx(0.154, abs=0.002)
    # Without attention it would be the share of the tokens.
    assert recipe / full < 0.3
