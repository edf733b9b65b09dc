r"""RoPE rules: how the rotations of a model are changed for a window of T instead of W tokens.

The paper raises the base (`ntk`). The other rules are those of related work, written as the `rope_parameters` that
transformers reads, so that an exported model needs no code of this kit. With theta_i = base ** (-2i / d) for
the pair i of dimensions, and s = T / W if no factor is given:

`ntk`: base' = base * (f * T/W - (f - 1)) ** (d / (d - 2)), f = T/W (paper, section 4.3; see `rope.ntk_base`).
`pi`: theta_i / s, position interpolation (Chen et al. 2023, arXiv 2306.15595).
`yarn`: theta_i / s for slow pairs, theta_i for fast ones, a ramp between them, and logits of attention multiplied by
(0.1 ln s + 1) ** 2 (Peng et al. 2023, arXiv 2309.00071).
`llama3`: theta_i / s for wavelengths above W, theta_i for those below W / 4, a mixture between them (Llama 3.1:
Grattafiori et al. 2024, arXiv 2407.21783).
`entropy_abf`: base' = f * base with f = 50 (adjusted base frequency), and logits multiplied by ln T / ln W, so that the
entropy of attention does not grow with the number of tokens (Zhang et al. 2024, arXiv 2401.07004). Their factor follows
the position, ln i / ln W beyond W, from the third layer on; here it is the one of the last position, in all layers,
because standard configurations have no other.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

ABF_FACTOR = 50.0
# YaRN's ramp is between pairs that turn 32 times and once in W tokens; Llama 3.1's between W / 4 and W.
_YARN = {"rope_type": "yarn", "beta_fast": 32.0, "beta_slow": 1.0}
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def _pi(base: float, window: int, target_length: int, factor: float | None) -> dict[str, Any]:
    return {"rope_theta": base, "rope_type": "linear", "factor": factor or target_length / window}


def _yarn(base: float, window: int, target_length: int, factor: float | None) -> dict[str, Any]:
    scale = factor or target_length / window
    return _YARN | {"rope_theta": base, "factor": scale, "original_max_position_embeddings": window}


def _llama3(base: float, window: int, target_length: int, factor: float | None) -> dict[str, Any]:
    scale = factor or target_length / window
    return _LLAMA3 | {"rope_theta": base, "factor": scale, "original_max_position_embeddings": window}


def _entropy_abf(base: float, window: int, target_length: int, factor: float | None) -> dict[str, Any]:
    # YaRN's keys without its scaling: the attention factor multiplies queries and keys, so logits by its square.
    scale = math.sqrt(math.log(target_length) / math.log(window))
    raised = {"rope_theta": base * (factor or ABF_FACTOR), "factor": 1.0}
    return _YARN | raised | {"attention_factor": scale, "original_max_position_embeddings": target_length}


# From the base, W, T and a factor or None to rope_parameters. The paper's own rule is `rope.ntk_base`.
OTHERS: Mapping[str, Callable[[float, int, int, float | None], dict[str, Any]]] = {
    "pi": _pi,
    "yarn": _yarn,
    "llama3": _llama3,
    "entropy_abf": _entropy_abf,
}
RULES = ("ntk", *OTHERS)
