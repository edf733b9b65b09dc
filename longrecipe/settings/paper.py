"""What differs from the paper: the settings of a run next to the values that the paper states."""

import math
from typing import Any

import pandas as pd

from longrecipe.settings.schema import Params

_SIZE, _RATE = "size of the run", "a small model takes larger steps"
# Settings that the paper states: its value, and why a run may have another. Settings that change the method come first.
STATED: dict[str, tuple[Any, str]] = {
    "method": ("longrecipe", "what this run compares"),
    "ratio": (0.3, "what this run compares"),
    "selection": ("anchored", "what this run compares"),
    "document_candidates": (1, "what this run compares"),
    "loss_weight": ("none", "what this run compares"),
    "rope_rule": ("ntk", "what this run compares"),
    "replay_long_share": (0.0, "replay keeps seeing long positions"),
    "replay_kl_weight": (0.0, "replay stays near the base on short text"),
    "replay_skip_weight": (0.0, "replay stays near the base at long positions"),
    "merge_weight": (0.5, "keeps more of what was trained"),
    "merge_rule": ("uniform", "queries and keys fit one RoPE base only"),
    "token_types": ("pos", "types from the tokenizer need no tagger"),
    "anchor_rule": ("share", "the share favours types that are frequent"),
    "analysis_score": ("logit", "what this run compares"),
    "analysis_top_share": (0.2, "what this run compares"),
    "probe_window": ("2 W", "H' must read more than the base can"),
    "replay_fact_share": (0.0, "short text of the mini models has facts"),
    "text": ("SlimPajama", "English that every Python carries"),
    "replay_text": ("WizardLM, Magicoder", "the same text as for stage 1"),
    "target_length": ("81920 and 131072", "follows the window of the base"),
    "n_documents": (10_000, _SIZE),
    "extend_steps": (104, _SIZE),
    "extend_batch_size": (96, _SIZE),
    "extend_learning_rate": (5e-5, _RATE),
    "replay_steps": (86, _SIZE),
    "replay_batch_size": (96, _SIZE),
    "replay_learning_rate": (5e-6, _RATE),
}
# Replay and merging as in the paper: settings that change neither the analysis nor stage 1.
REPLAY_AND_MERGE = ("replay_long_share", "replay_kl_weight", "replay_skip_weight", "merge_weight", "merge_rule")


def differences(params: Params) -> pd.DataFrame:
    """The settings of a run that differ from those that the paper states: here, in the paper (quoted), and why.

    The paper's replay steps are its 68M tokens in batches of 96 windows. Settings that it does not state are left out.
    """
    rows = [
        (name, str(getattr(params, name)), str(stated), why)
        for name, (stated, why) in STATED.items()
        if not _is_stated(params, name, stated)
    ]
    return pd.DataFrame(rows, columns=["setting", "here", "paper (quoted)", "why"]).set_index("setting")


def _is_stated(params: Params, name: str, stated: Any) -> bool:
    value = getattr(params, name)
    match name:
        case "probe_window":
            return value == 2 * params.window
        case "text" | "replay_text":
            # Of a text of the user's own only the name is known.
            return value is not None
        case "target_length":
            return str(value) in stated.split(" and ")
        case "ratio":
            # 38,400 tokens of 131,072, as in Table 4.
            return math.isclose(value, stated, rel_tol=0.03)
    return value == stated
