"""What several test files share: a tiny model, settings of short runs, and how their tables are read."""

import re

import torch
from transformers import LlamaConfig, LlamaForCausalLM

# Settings of a run that trains in seconds.
SHORT = {
    "target_length": 512,
    "probe_window": 272,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "analysis_documents": 5,
    "n_documents": 4,
    "extend_steps": 6,
    "extend_batch_size": 2,
    "replay_steps": 4,
    "replay_batch_size": 2,
    "warmup_steps": 1,
    "save_steps": 2,
    "eval_documents": 2,
    "precision": "fp32",
}


def settings_of(grid, *names):
    """The values of some settings, a tuple for each run."""
    return [tuple(getattr(p, name) for name in names) for p in grid]


def unpadded(text):
    """Markdown without the blanks that align its columns."""
    return re.sub(" +", " ", text)


def tiny_llama(seed=0, **changes):
    """A new random Llama of 2 layers, width 32, window 256."""
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
