"""The RoPE base for a longer window: the rule, and a model configuration that follows it (paper, section 4.3)."""

import copy
import math
from typing import Any

import numpy as np


def ntk_base(base: float, head_dim: int, window: int, target_length: int, factor: float | None = None) -> float:
    """Raise the RoPE base so that the slowest rotations stay in known territory over a longer window.

    base' = base * (f * T/W - (f - 1)) ** (d / (d - 2)), the "dynamic NTK" form with f = T/W. The paper prints the
    bases (Table 4) and not the rule; this reading gives them: Llama3 500k, d 128, 8192 -> 81920 tokens: 48.9M.

    Args:
        base: RoPE base (theta) of the model as it is.
        head_dim: d, the number of rotated dimensions of an attention head; even, above 2.
        window: W, the model's own context window, in tokens.
        target_length: T, the window wanted, in tokens; not below W. T == W gives the base back.
        factor: f, at least 1; T/W if not given.

    Returns:
        The raised base, as a float.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not (math.isfinite(base) and base > 0):
        raise ValueError(f"base is {base}, but must be a positive number, such as the rope_theta 500000.0 of Llama3")
    _check_head_dim(head_dim)
    if window <= 0:
        raise ValueError(f"window is {window}, but must be above 0; pass the model's own context window in tokens")
    if target_length < window:
        raise ValueError(
            f"target_length is {target_length}, below the window of {window} tokens; RoPE needs raising only for a "
            f"longer window, so pass {window} or more"
        )
    if factor is None:
        factor = target_length / window
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor is {factor}, but must be 1 or more; leave it out for target_length / window")
    # 1 + f (T/W - 1) is the docstring's bracket, put so that T == W gives exactly 1.
    stretch = 1 + factor * (target_length / window - 1)
    return float(base * stretch ** (head_dim / (head_dim - 2)))


def wavelengths(base: float, head_dim: int) -> np.ndarray:
    """Give the wavelength of every RoPE dimension pair: lambda_i = 2 pi base ** (2i / d), i = 0 .. d/2 - 1.

    Args:
        base: RoPE base (theta), positive.
        head_dim: d, the number of rotated dimensions of a head; even, above 2.

    Returns:
        float64 array [head_dim // 2], in tokens, shortest first. A pair with a wavelength above the trained window
        has never been seen through a whole turn: those are what a longer window breaks.

    Raises:
        ValueError: an argument is outside its range.
    """
    if not (math.isfinite(base) and base > 0):
        raise ValueError(f"base is {base}, but must be a positive number, such as the rope_theta 500000.0 of Llama3")
    _check_head_dim(head_dim)
    return 2 * np.pi * float(base) ** (np.arange(0, head_dim, 2) / head_dim)


def extend_config(config: Any, target_length: int, factor: float | None = None, window: int | None = None) -> Any:
    """Copy a transformers configuration with the RoPE base raised by `ntk_base` for a longer window (section 4.3).

    Give the copy to `from_pretrained(..., config=...)`: a model computes its rotations once, when it is built.

    Args:
        config: any configuration with standard RoPE (rope_type "default").
        target_length: T, in tokens; becomes max_position_embeddings.
        factor: f of the rule; T/W if not given.
        window: W, in tokens; max_position_embeddings if not given. Pass it if the configuration promises more
            than the model was trained on.

    Returns:
        A deep copy; the configuration given is not changed.

    Raises:
        ValueError: another rope_type, no RoPE base, a sliding window below T in every layer, or a value that `ntk_base`
            refuses.
    """
    parameters = _rope_parameters(config)
    sliding = getattr(config, "sliding_window", None)
    # Where some layers see all, what slides in the others is the model's own design.
    sees_all = "full_attention" in (getattr(config, "layer_types", None) or ())
    if sliding is not None and sliding < target_length and not sees_all:
        raise ValueError(
            f"{type(config).__name__} has a sliding window of {sliding} tokens in every layer, so none sees further "
            f"back, whatever the RoPE, and training to {target_length} shows little; take a model with full attention, "
            f"such as Llama-3, Mistral-7B-v0.3 or Qwen2, or a target_length of {sliding} at most"
        )
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type != "default":
        raise ValueError(_scaled(config, rope_type, parameters))
    if window is None:
        window = config.max_position_embeddings
    # Some families rotate a part of each head only; the rule's d counts what turns.
    rotated = int(head_dim(config) * rotated_share(config))
    theta = ntk_base(rope_theta(config), rotated, window, target_length, factor)

    extended = copy.deepcopy(config)
    if getattr(extended, "rope_parameters", None):
        extended.rope_parameters["rope_theta"] = theta
    if getattr(extended, "rope_theta", None) is not None:
        extended.rope_theta = theta
    extended.max_position_embeddings = target_length
    return extended


def rope_theta(config: Any) -> float:
    """Read the RoPE base theta_i = base ** (-2i / d) is built on, wherever this transformers version keeps it.

    Raises:
        ValueError: the configuration has no RoPE base, or one for each layer type.
    """
    theta = _rope_parameters(config).get("rope_theta", getattr(config, "rope_theta", None))
    if theta is None:
        raise ValueError(
            f"{type(config).__name__} has no rope_theta, in rope_parameters or beside it; the model must use RoPE, "
            "as Llama, Mistral and Qwen2 do"
        )
    return float(theta)


def rotated_share(config: Any) -> float:
    """Read which share of each attention head RoPE turns, within (0, 1]: partial_rotary_factor, 1 if there is none."""
    share = _rope_parameters(config).get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
    return 1.0 if share is None else float(share)


def rope_keys(config: Any) -> dict[str, Any]:
    """Give the RoPE of a configuration as keys of a config.json that every reader finds.

    transformers 5 reads rope_parameters; older versions and other tools read rope_theta, rope_scaling and
    partial_rotary_factor at the top, GPT-NeoX rotary_emb_base and rotary_pct, and take 10,000 if there is none.

    Args:
        config: any configuration.

    Returns:
        The keys, or none of them for a model without RoPE or with one RoPE for each layer type, which has no old form.
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


def head_dim(config: Any) -> int:
    """Read the width d of one attention head: config.head_dim, else hidden_size // num_attention_heads."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _scaled(config: Any, rope_type: str, parameters: dict[str, Any]) -> str:
    original = parameters.get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    without = (
        "remove rope_scaling and rope_parameters' rope_type from a copy of the model folder's config.json, set its "
        f"max_position_embeddings and window: {original or 'the window it was trained on'}"
    )
    start = "start from the model as it was before it was extended"
    if rope_type in ("yarn", "dynamic"):
        cure = (
            f"If the model was trained without it, as Qwen2 and Qwen2.5 were, {without}: the recipe then extends the "
            f"trained model. If it was trained with it, {start}"
        )
    elif rope_type == "linear":
        cure = f"The weights were trained on divided positions, so do not remove it: {start}"
    else:
        cure = (
            f"Best {start}, such as Llama-3 for Llama-3.1. You can also {without}: the recipe then starts from that "
            "window, and what the model learned beyond it is lost"
        )
    return (
        f"rope_type is {rope_type!r}: the model's window was extended already by scaling its RoPE, and the recipe "
        f"raises the base of unscaled RoPE. {cure}"
    )


def _check_head_dim(head_dim: int) -> None:
    if head_dim <= 2 or head_dim % 2:
        raise ValueError(
            f"head_dim is {head_dim}, but must be even and above 2, as RoPE turns pairs of dimensions; pass "
            "hidden_size // num_attention_heads, such as 128"
        )


def _rope_parameters(config: Any) -> dict[str, Any]:
    # Before transformers 5 the same dictionary was rope_scaling, without the base, or None.
    for name in ("rope_parameters", "rope_scaling"):
        parameters = getattr(config, name, None)
        if parameters:
            break
    else:
        return {}
    nested = [key for key, value in parameters.items() if isinstance(value, dict)]
    if nested:
        raise ValueError(
            f"rope_parameters holds one RoPE for each layer type ({', '.join(nested)}), but the rule needs a single "
            "one; take a model with one RoPE for all layers, such as Llama, Mistral or Qwen2"
        )
    return parameters
