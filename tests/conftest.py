"""Fixtures that many tests share; the costly ones are made once a session, so no test may change them."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from transformers import LlamaConfig, LlamaForCausalLM

from longrecipe import corpus as corpora
from longrecipe.facts import fact_format
from longrecipe.models import load_tokenizer

# Machines are shared and slow at times; a property is right or wrong at any speed.
settings.register_profile("longrecipe", deadline=None)
settings.load_profile("longrecipe")


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("llama3")


@pytest.fixture(scope="session")
def corpus(tokenizer):
    return corpora.load_english(tokenizer)


@pytest.fixture(scope="session")
def facts(tokenizer):
    return fact_format(tokenizer)


@pytest.fixture(scope="session")
def make_tiny():
    """A function from a seed to a new random Llama of 2 layers, width 32, window 256."""

    def make(seed=0, **changes):
        config = LlamaConfig(
            **{
                "vocab_size": 1024,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "bos_token_id": 0,
                "eos_token_id": 0,
                # Ten times the usual, so that an untrained model looks at its context.
                "initializer_range": 0.2,
            }
            | changes
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def tiny(make_tiny):
    return make_tiny()


@pytest.fixture
def rng():
    return np.random.default_rng(0)
