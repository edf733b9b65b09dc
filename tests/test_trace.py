"""The cost model next to steps of 7B and 8B models, traced with their real shapes."""

import pytest

from longrecipe import models
from longrecipe.cost import flops_per_token, traffic_bytes, training_memory
from longrecipe.cost.trace import trace
from longrecipe.settings import Setup

# The models and lengths of the paper, and each setting that changes the memory.
SHAPES = [(model, n, {}) for model in ("llama3", "mistral", "qwen2") for n in (24_000, 38_400)]
SAVINGS = [
    {"offload_activations": True},
    {"keep_attention": True},
    {"keep_attention": True, "offload_activations": True},
    {"fp32_accumulation": True},
    {"fused_loss": False},
    {"loss_chunk": 1024},
    {"optimizer": "adamw_4bit"},
    {"offload_optimizer": True},
    {"checkpointing": False},
    {"fp32_weights": True, "optimizer": "adamw_fp32"},
]


@pytest.mark.parametrize(
    ("model", "n_tokens", "change"), [*SHAPES, *(("llama3", 38_400, change) for change in SAVINGS)], ids=str
)
def test_modelled_peak_and_traffic_are_those_of_a_traced_step(model, n_tokens, change):
    config, setup = models.config_of(model, "paper"), Setup(**change)
    need, traced = training_memory(config, n_tokens, setup), trace(config, n_tokens, setup)
    assert need.allocated == pytest.approx(traced.peak, rel=0.03)
    assert traffic_bytes(config, n_tokens, setup, batches=2) == pytest.approx(traced.traffic, rel=0.005)


def test_modelled_peak_of_one_batch_is_that_of_a_traced_step():
    config = models.config_of("llama3", "paper")
    need = training_memory(config, 38_400, accumulated=False)
    assert need.allocated == pytest.approx(trace(config, 38_400, n_batches=1).peak, rel=0.03)


@pytest.mark.parametrize("model", ["llama3", "mistral", "qwen2"])
def test_modelled_flops_are_those_of_a_traced_step(model):
    config, n = models.config_of(model, "paper"), 24_000
    c, one = config.get_text_config(), flops_per_token(config, n)
    traced = trace(config, n, Setup(checkpointing=False), n_batches=1)
    # Parameters of the blocks that are in no matrix: norms, and Qwen2's biases.
    width = c.hidden_size // c.num_attention_heads
    biases = c.hidden_size + 2 * c.num_key_value_heads * width if model == "qwen2" else 0
    vectors = c.num_hidden_layers * (2 * c.hidden_size + biases) + c.hidden_size
    assert traced.matrices == n * (one.linear - 6 * vectors + one.head)
    # The kernels compute the scores again in the backward pass, 7 products instead of 6; both halves are counted.
    assert traced.attention == n * one.attention * 2 * 7 / 6
    # Checkpointing repeats the forward pass of each block up to its last matrix.
    again, more = trace(config, n, n_batches=1), flops_per_token(config, n, checkpointing=True)
    assert again.matrices - traced.matrices == n * (more.recompute - one.attention / 3 - 2 * vectors)
    assert again.attention == traced.attention * 9 / 7
    # But not attention if its outputs are kept.
    kept = trace(config, n, Setup(keep_attention=True), n_batches=1)
    assert (kept.matrices, kept.attention) == (again.matrices, traced.attention)


@pytest.mark.parametrize(
    ("change", "message"), [({"shards": 8}, "shards and sequence_parallel to 1"), ({"compile": True}, "only eager")]
)
def test_setups_of_several_gpus_or_compiled_ones_cannot_be_traced(change, message):
    with pytest.raises(ValueError, match=message):
        trace(models.config_of("llama3", "paper"), 1000, Setup(**change))
