"""The model families: one record with all that the kit knows of each, for the mini model and for the paper's.

A new family is one entry of `FAMILIES`, its settings in `params/`, and its mini model in `assets/mini/`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

MINI_VOCABULARY, MINI_WINDOW = 1024, 256
# Shared by all mini models: 0.92M parameters; attention is 70 % of the training at 4096 tokens, as of an 8B at 128k.
_MINI = {
    "vocab_size": MINI_VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": MINI_WINDOW,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_implementation": "sdpa",
}
_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


@dataclass(frozen=True)
class Family:
    """A model family: its mini model, the paper's model, and how tables and figures show it.

    config: its configuration class of transformers. rope_theta: the RoPE base of both models, which leaves low
    frequencies unused inside the window: room that extension needs. paper: the shape of the paper's model, public facts
    of its configuration. hub_id: where its weights are, as owner/name@commit, so that a later change there does not
    change a run. colour, marker: in every figure, as #RRGGBB and in matplotlib's notation. mini: what the mini model
    has besides the shape that all share. table1, table4: its name in the paper's tables, None if it is not in them.
    """

    config: type[PreTrainedConfig]
    rope_theta: float
    paper: Mapping[str, Any]
    hub_id: str
    colour: str
    marker: str
    mini: Mapping[str, Any] = field(default_factory=dict)
    table1: str | None = None
    table4: str | None = None

    def mini_config(self) -> PreTrainedConfig:
        """The configuration of the mini model."""
        return self.config(**_MINI | self.mini, rope_parameters=self._rope())

    def paper_config(self) -> PreTrainedConfig:
        """The configuration of the paper's model, made without any files."""
        return self.config(**self.paper, rope_parameters=self._rope())

    def _rope(self) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.rope_theta}


FAMILIES: dict[str, Family] = {
    "llama3": Family(
        LlamaConfig,
        rope_theta=5.0e5,
        paper=_8B | {"vocab_size": 128256, "max_position_embeddings": 8192},
        hub_id="meta-llama/Meta-Llama-3-8B-Instruct@5f0b02c75b57c5855da9ae460ce51323ea669d8a",
        colour="#0072B2",
        marker="o",
        table1="llama3-8b-instruct",
        table4="llama3-8b",
    ),
    "mistral": Family(
        MistralConfig,
        rope_theta=1.0e6,
        # Version 0.3 has no sliding window (v0.1 had one).
        paper=_8B | {"vocab_size": 32768, "max_position_embeddings": 32768, "sliding_window": None},
        hub_id="mistralai/Mistral-7B-v0.3@caa1feb0e54d415e2df31207e5f4e273e33509b1",
        colour="#E69F00",
        marker="s",
        # As in Mistral-7B-v0.3, the output weights are separate.
        mini={"tie_word_embeddings": False, "sliding_window": None, "rms_norm_eps": 1.0e-5},
        table1="mistral-7b",
    ),
    "qwen2": Family(
        Qwen2Config,
        rope_theta=1.0e6,
        paper={
            "vocab_size": 152064,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
        hub_id="Qwen/Qwen2-7B@453ed1575b739b5b03ce3758b23befdb0967f40e",
        colour="#009E73",
        marker="^",
        # The embeddings are tied, as in Qwen2's smaller sizes. The class has biases of queries, keys and values.
        mini={"rms_norm_eps": 1.0e-6, "use_sliding_window": False},
        table1="qwen2-7b",
        table4="qwen2-7b",
    ),
    "qwen3": Family(
        Qwen3Config,
        rope_theta=1.0e6,
        paper={
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
        hub_id="Qwen/Qwen3-8B-Base@49e3418fbbbca6ecbdf9608b4d22e5a407081db4",
        colour="#CC79A7",
        marker="D",
        # Queries and keys are normalised in every head (QK-norm). The class has a head_dim of its own, 128 by default.
        mini={"head_dim": 32, "rms_norm_eps": 1.0e-6},
    ),
}


# What the planted facts of the mini models can have as values.
FactValues = Literal["numbers", "words"]


def mini_name(family: str, fact_values: FactValues = "numbers") -> str:
    """The name of a family's mini model that recalls facts with such values: `llama3`, or `llama3-words`."""
    return family if fact_values == "numbers" else f"{family}-{fact_values}"


# Those of the paper's Table 1, which its experiments and costs are about.
OF_THE_PAPER = tuple(name for name, family in FAMILIES.items() if family.table1)
