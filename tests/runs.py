"""What several test files share: a tiny model, settings of short runs, and how their tables are read."""

import re

import numpy as np
import pandas as pd
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from longrecipe import evaluate, results, settings
from longrecipe.experiments import paired
from longrecipe.experiments.paired import RULE
from longrecipe.results.run import typed

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


def made_real_run(losses, recall, perplexity, *, spread=0.0, needed=None, **changes):
    """A run of SmolLM2 with these numbers: losses inside the window and beyond it, recall of 0..1 and perplexity.

    spread: how much documents differ, whose mean is the number; needed: the loss of tokens that need long context. What
    the documents have in common cancels in differences. The base, which the run of method none measures, has a
    perplexity of 10.
    """
    p = settings.load("smollm2", **paired.DEFAULTS | changes)
    stage = RULE if p.method == "none" else "merged"
    rng, rows, said = np.random.default_rng(0), [], []
    for document in range(6):
        level, own = rng.normal(), spread * (document - 2.5)
        for (start, end), loss in zip(((0, 8192), (8192, 16384)), losses, strict=True):
            rows.append(
                (
                    stage,
                    evaluate.ALL,
                    document,
                    start,
                    end,
                    end - max(start, 1),
                    loss + level + own * (1 + start / 8192),
                )
            )
            if needed is not None:
                rows.append((stage, evaluate.LONG_CONTEXT, document, start, end, 50, needed))
        said += [(stage, "multi-key", n, document, recall + own, 8) for n in (2048, 16384)]
    scores = [(stage, perplexity)] + ([(paired.BASE, 10.0)] if p.method == "none" else [])
    scores = [{"stage": name, "length": 2048, "task": "perplexity", "mean": value} for name, value in scores]
    tables = {
        "losses": pd.DataFrame(rows, columns=list(results.TABLES["losses"])),
        "documents": pd.DataFrame(said, columns=list(results.TABLES["documents"])),
        "scores": pd.DataFrame(scores).reindex(columns=list(results.TABLES["scores"])),
    }
    tables = {key: typed(table, key) for key, table in tables.items()}
    return results.Run(paired.REAL, results.run_name(p, paired.REAL), p.model_dump(), True, 1.0, "", {}, {}, [], tables)
