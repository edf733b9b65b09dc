"""The RoPE of a longer window: the paper's rule, and a configuration that uses it or another (section 4.3)."""

import copy
import math
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from longrecipe.models import rope_rules


def ntk_base(base: float, *, head_dim: int, window: int, target_length: int, factor: float | None = None) -> float:
    """Raise the RoPE base so that the slowest rotations stay within the trained range over a longer window.

    base' = base * (f * T/W - (f - 1)) ** (d / (d - 2)), the "dynamic NTK" form with f = T/W. The paper prints the
    bases (Table 4) but not the rule. This rule gives the same bases: Llama3 500k, d 128, 8192 -> 81920 tokens: 48.9M.

    Args:
        base: RoPE base (theta) of the original model.
        head_dim: d, the number of rotated dimensions of an attention head; even, above 2.
        window: W, the model's own context window, in tokens.
        target_length: T, the new window, in tokens; at least W. T == W returns the base unchanged.
        factor: f, at least 1; T/W if not given.

    Returns:
        The raised base, as a float.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check_base(base)
    _check_head_dim(head_dim)
    if window <= 0:
        raise ValueError(f"window is {window}, but must be above 0; pass the model's own context window in tokens")
    if target_length < window:
        raise ValueError(
            f"target_length is {target_length}, below the window of {window} tokens; the base is only raised for a "
            f"longer window, so pass {window} or more"
        )
    if factor is None:
        factor = target_length / window
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor is {factor}, but must be 1 or more; leave it out for target_length / window")
    # Equal to the bracket in the docstring, and exactly 1 if T == W.
    stretch = 1 + factor * (target_length / window - 1)
    return float(base * stretch ** (head_dim / (head_dim - 2)))


def wavelengths(base: float, head_dim: int) -> np.ndarray:
    """The wavelength of each RoPE dimension pair: lambda_i = 2 pi base ** (2i / d), i = 0 .. d/2 - 1.

    Args:
        base: RoPE base (theta), positive.
        head_dim: d, the number of rotated dimensions of a head; even, above 2.

    Returns:
        float64 array [head_dim // 2], in tokens, shortest first. Pairs with a wavelength above the trained window never
        completed a full rotation in training; these are the pairs that fail in a longer window.

    Raises:
        ValueError: an argument is outside its range.
    """
    _check_base(base)
    _check_head_dim(head_dim)
    return 2 * np.pi * float(base) ** (np.arange(0, head_dim, 2) / head_dim)


def extend_config(
    config: PreTrainedConfig,
    target_length: int,
    *,
    rule: str = "ntk",
    factor: float | None = None,
    window: int | None = None,
) -> PreTrainedConfig:
    """Copy a transformers configuration, with its RoPE changed by a rule for a longer window (section 4.3).

    Pass the copy to `from_pretrained(..., config=...)`, because a model computes its rotations when it is built.

    Args:
        config: any configuration with standard RoPE (rope_type "default").
        target_length: T, in tokens; becomes max_position_embeddings.
        rule: one of `rope_rules.RULES`; the paper's is ntk, see `ntk_base`.
        factor: of the rule, at least 1; if not given T/W, or 50 for entropy_abf.
        window: W, in tokens; max_position_embeddings if not given. Pass it if the model was trained on a shorter
            window than its configuration says.

    Returns:
        A deep copy; config is not changed.

    Raises:
        ValueError: another rope_type, no RoPE base, a sliding window below T in every layer, an unknown rule, or a
            value that `ntk_base` does not accept.
    """
    parameters = _rope_parameters(config)
    sliding = getattr(config, "sliding_window", None)
    # If some layers have full attention, sliding windows in the others are part of the model's design.
    sees_all = "full_attention" in (getattr(config, "layer_types", None) or ())
    if sliding is not None and sliding < target_length and not sees_all:
        raise ValueError(
            f"{type(config).__name__} has a sliding window of {sliding} tokens in every layer, so no token sees "
            f"further back, whatever the RoPE base; use a model with full attention, such as Llama-3, Mistral-7B-v0.3 "
            f"or Qwen2, or a target_length of {sliding} at most"
        )
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type != "default":
        raise ValueError(_scaled_message(config, rope_type, parameters))
    if window is None:
        window = config.max_position_embeddings
    # Some families only rotate a part of each head; d is the size of this part.
    rotated = int(head_dim(config) * rotated_share(config))
    base = rope_theta(config)
    # For any rule, because it checks all values.
    theta = ntk_base(base, head_dim=rotated, window=window, target_length=target_length, factor=factor)
    if rule == "ntk":
        written = {"rope_theta": theta}
    elif rule in rope_rules.OTHERS:
        written = rope_rules.OTHERS[rule](base, window, target_length, factor)
    else:
        raise ValueError(f"rope_rule is {rule!r}; allowed are {', '.join(rope_rules.RULES)}")

    extended = copy.deepcopy(config)
    if getattr(extended, "rope_parameters", None):
        extended.rope_parameters |= written
    elif "rope_type" in written:
        extended.rope_scaling = {key: value for key, value in written.items() if key != "rope_theta"}
    if getattr(extended, "rope_theta", None) is not None:
        extended.rope_theta = written["rope_theta"]
    extended.max_position_embeddings = target_length
    return extended


def rope_theta(config: PreTrainedConfig) -> float:
    """The RoPE base of a configuration (theta_i = base ** (-2i / d)), wherever this version of transformers keeps it.

    Raises:
        ValueError: the configuration has no RoPE base, or a separate one for each layer type.
    """
    theta = _rope_parameters(config).get("rope_theta", getattr(config, "rope_theta", None))
    if theta is None:
        raise ValueError(
            f"{type(config).__name__} has no rope_theta, neither in rope_parameters nor outside; use a model with "
            "RoPE, such as Llama, Mistral or Qwen2"
        )
    return float(theta)


def rotated_share(config: PreTrainedConfig) -> float:
    """The share of each attention head that RoPE rotates, in (0, 1]: partial_rotary_factor, 1 if there is none."""
    share = _rope_parameters(config).get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return 1.0 if share is None else float(share)


def rope_keys(config: PreTrainedConfig) -> dict[str, Any]:
    """The RoPE of a configuration as keys of config.json, under all names that readers use.

    transformers 5 reads rope_parameters. Older versions and other tools read rope_theta, rope_scaling and
    partial_rotary_factor at the top level (for GPT-NeoX rotary_emb_base and rotary_pct), and assume 10,000 if they are
    missing.

    Returns:
        The keys; empty for a model without RoPE, or with a separate RoPE for each layer type, which older versions
        cannot express.
    """
    written = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" not in written:
        return {}
    theta, share = rope_theta(config), rotated_share(config)
    keys = {"rope_theta": theta, "rope_parameters": copy.deepcopy(dict(written))}
    if share != 1:
        keys["partial_rotary_factor"] = share
    if str(config.model_type).startswith("gpt_neox"):
        keys |= {"rotary_emb_base": theta, "rotary_pct": share}
    if written.get("rope_type", "default") != "default":
        keys["rope_scaling"] = {k: v for k, v in written.items() if k not in ("rope_theta", "partial_rotary_factor")}
    return keys


def head_dim(config: PreTrainedConfig) -> int:
    """The width d of one attention head: config.head_dim, else hidden_size // num_attention_heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _scaled_message(config: PreTrainedConfig, rope_type: str, parameters: dict[str, Any]) -> str:
    original = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    without = (
        "remove rope_scaling and rope_parameters' rope_type from a copy of the model folder's config.json, set its "
        f"max_position_embeddings and window: {original or 'the window it was trained on'}"
    )
    start = "start from the original model, before it was extended"
    if rope_type in ("yarn", "dynamic"):
        fix = (
            f"If the model was trained without it, as Qwen2 and Qwen2.5 were, {without}: the recipe then extends the "
            f"trained model. If it was trained with it, {start}"
        )
    elif rope_type == "linear":
        fix = f"The weights were trained with divided positions, so do not remove it: {start}"
    else:
        fix = (
            f"It is best to {start}, such as Llama-3 for Llama-3.1. You can also {without}: the recipe then starts "
            "from that window, and what the model learned beyond it is lost"
        )
    return (
        f"rope_type is {rope_type!r}: the window of the model was already extended by scaling its RoPE, but the "
        f"recipe needs unscaled RoPE, whose base it raises. {fix}"
    )


def _check_base(base: float) -> None:
    if not (math.isfinite(base) and base > 0):
        raise ValueError(f"base is {base}, but must be a positive number, such as the rope_theta 500000.0 of Llama3")


def _check_head_dim(head_dim: int) -> None:
    if head_dim <= 2 or head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}, but must be even and above 2, as RoPE rotates pairs of dimensions; pass "
            "hidden_size // num_attention_heads, such as 128"
        )


def _rope_parameters(config: PreTrainedConfig) -> dict[str, Any]:
    # Before transformers 5, the dictionary was called rope_scaling, had no base, and could be None.
    for name in ("rope_parameters", "rope_scaling"):
        parameters = getattr(config, name, None)
        if parameters:
            break
    else:
        return {}
    nested = [key for key, value in parameters.items() if isinstance(value, dict)]
    if nested:
        raise ValueError(
            f"rope_parameters has a separate RoPE for each layer type ({', '.join(nested)}), but the rule needs a "
            "single one; use a model with one RoPE for all layers, such as Llama, Mistral or Qwen2"
        )
    return parameters
