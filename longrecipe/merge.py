"""Merge a tuned model with the one it came from, tensor by tensor over safetensors (paper, section 4.3, stage 3)."""

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoConfig

from longrecipe.models.checkpoint import (
    INDEX,
    SINGLE,
    WEIGHTS,
    Checkpoint,
    MergeError,
    few,
    load_tensor,
    read_checkpoint,
    read_index,
)
from longrecipe.models.formats import share
from longrecipe.system.files import new_folder

HEAD = "lm_head.weight"
RULES = ("uniform", "spare_qk")
LAYOUTS = ("tuned", "original")
_QK = re.compile(r"\b[qk]_proj\.")
# Old checkpoints store these; they follow from the configuration, and transformers computes them itself.
COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$")

logger = logging.getLogger(__name__)


def interpolate(
    original: torch.Tensor, tuned: torch.Tensor, weight: float, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Average two tensors: theta = l1 * original + l2 * tuned, l1 = weight, l2 = 1 - l1 (section 4.3, stage 3).

    Computed in float32 (float64 if a tensor is), then cast. Equal tensors stay as they are; weight 0 gives tuned
    and weight 1 the original in the result's dtype, bit for bit.

    Args:
        original: any shape and dtype.
        tuned: the same shape.
        weight: l1, within [0, 1].
        dtype: of the result; None takes tuned's.

    Returns:
        A tensor of tuned's shape.

    Raises:
        MergeError: 8-bit floats, tensors of other types (integers, booleans) that differ, or values beyond dtype.
    """
    kinds = f"{original.dtype} and {tuned.dtype}"
    if not (original.is_floating_point() and tuned.is_floating_point()):
        if original.dtype != tuned.dtype or not torch.equal(original, tuned):
            raise MergeError(f"{kinds} tensors have no average, so must be equal, but differ; dequantize both models")
        return tuned
    if min(original.element_size(), tuned.element_size()) < 2:
        raise MergeError(f"{kinds}: 8-bit floats mean nothing without their scales; dequantize both to bfloat16")
    dtype = dtype or tuned.dtype
    if weight == 0:
        merged = tuned
    elif weight == 1:
        merged = original
    else:
        wide = torch.promote_types(torch.float32, torch.promote_types(original.dtype, tuned.dtype))
        merged = torch.lerp(tuned.to(wide), original.to(wide), weight)
    cast = merged.to(dtype)
    # Only float16 has a smaller range than the others; what does not fit would become infinite.
    if dtype == torch.float16 and merged.dtype != dtype and not torch.equal(cast.isfinite(), merged.isfinite()):
        raise MergeError(
            f"values up to {merged.abs().max().item():.4g} do not fit into float16, at most {torch.finfo(dtype).max:g};"
            " convert the original model to bfloat16 and run again"
        )
    return cast


def merge_weights(
    original_dir: str | os.PathLike,
    tuned_dir: str | os.PathLike,
    folder: Path,
    weight: float = 0.5,
    rule: str = "uniform",
    layout: str = "tuned",
) -> None:
    """Write the merged tensors theta = weight * original + (1 - weight) * tuned, without any other file.

    It holds one merged shard and one pair of tensors in memory, never a whole model. Buffers that old checkpoints store
    and transformers computes (rotary_emb.inv_freq, GPT-NeoX's attention.bias) are left out if only the original has
    them. So is an LM head in one folder only, if both configurations tie it to the embeddings and it is their copy:
    transformers ties it again on loading.

    Args:
        original_dir: the model before extension; a folder with safetensors, in one file or sharded in any way.
        tuned_dir: the extended, replayed model, likewise.
        folder: an empty folder that exists.
        weight: lambda1, the original's share, within [0, 1]; the paper's is 0.5.
        rule: `uniform`, the paper's: all tensors are averaged. `spare_qk`, ours: the projections of queries and keys
            stay as they were tuned. RoPE turns these alone, so they are made for one RoPE base, the tuned ones for the
            raised base and the original's for its own, and an average of both suits neither.
        layout: whose dtypes and files the result has, `tuned` or `original`: names of files, and which tensors each
            of them holds.

    Raises:
        MergeError: a weight outside [0, 1], an unknown rule or layout, missing or unreadable files, pickles only, or
            tensors whose names or shapes differ or that have no average.
    """
    if layout not in LAYOUTS:
        raise MergeError(f"layout is {layout!r}, but must be one of {', '.join(LAYOUTS)}")
    original, tuned, weights = _plan(original_dir, tuned_dir, weight, rule)
    _write(original, tuned, weights, folder, tuned if layout == "tuned" else original)


def merge(
    original_dir: str | os.PathLike,
    tuned_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    weight: float = 0.5,
    rule: str = "uniform",
) -> Path:
    """Write the model theta = weight * original + (1 - weight) * tuned to a new folder (section 4.3, stage 3).

    Sharding, dtypes, configuration (the raised RoPE base, the longer window), tokenizer and other small files are
    the tuned model's. out_dir appears when it is complete, not before.

    Args:
        original_dir, tuned_dir, weight, rule: as in `merge_weights`.
        out_dir: a folder that does not exist yet, or is empty.

    Returns:
        out_dir.

    Raises:
        MergeError: as `merge_weights`, and for an out_dir in use.
    """
    original, tuned, weights = _plan(original_dir, tuned_dir, weight, rule)
    out = Path(out_dir)
    if out.resolve() in (original.folder.resolve(), tuned.folder.resolve()):
        raise MergeError(f"out_dir {out} is one of the models to merge; choose a folder that does not exist yet")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise MergeError(f"out_dir {out} exists and is not an empty folder; choose another, or remove it first")
    with new_folder(out) as folder:
        _write(original, tuned, weights, folder, tuned)
        for path in tuned.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, folder / path.name)
            elif path.name == "additional_chat_templates":  # the one subfolder that belongs to a tokenizer
                shutil.copytree(path, folder / path.name)
    return out


def _plan(
    original_dir: str | os.PathLike, tuned_dir: str | os.PathLike, weight: float, rule: str
) -> tuple[Checkpoint, Checkpoint, dict[str, float]]:
    """Both models, and the original's share of every tensor that is merged."""
    if not 0 <= weight <= 1:
        raise MergeError(f"weight is {weight}, but must be within [0, 1]: the original's share, 0.5 in the paper")
    if rule not in RULES:
        raise MergeError(f"rule is {rule!r}, but must be one of {', '.join(RULES)}")
    original, tuned = read_checkpoint(Path(original_dir)), read_checkpoint(Path(tuned_dir))
    names = _names_in_common(original, tuned)
    weights = dict.fromkeys(names, weight)
    if rule == "spare_qk":
        weights |= dict.fromkeys(_spared(tuned), 0.0)
    return original, tuned, weights


def check_rule(original_dir: str | os.PathLike, rule: str) -> None:
    """Check before training that a model can be merged by a rule.

    Raises:
        MergeError: an unknown rule, a folder that `read_checkpoint` refuses, or no queries and keys to spare.
    """
    if rule not in RULES:
        raise MergeError(f"rule is {rule!r}, but must be one of {', '.join(RULES)}")
    original = read_checkpoint(Path(original_dir))
    if rule == "spare_qk":
        _spared(original)


def _spared(model: Checkpoint) -> list[str]:
    """The names of the projections of queries and keys."""
    spared = [name for name in model.files if _QK.search(name)]
    if not spared:
        raise MergeError(
            f"{model.folder} has no tensors named q_proj or k_proj, which merge_rule = 'spare_qk' leaves as they were "
            "tuned; set merge_rule to 'uniform'"
        )
    return spared


def _write(
    original: Checkpoint, tuned: Checkpoint, weights: Mapping[str, float], folder: Path, layout: Checkpoint
) -> None:
    n_bytes = 0
    for shard in sorted({layout.files[name] for name in weights}):
        names = [name for name in weights if layout.files[name] == shard]
        n_bytes += _merge_shard(original, tuned, {name: weights[name] for name in names}, folder / shard, layout)
        logger.info("merged %s of %s and %s", shard, original.folder, tuned.folder)
    if SINGLE not in layout.files.values():
        metadata = (read_index(layout.folder).get("metadata") or {}) | {"total_size": n_bytes}
        index = {"metadata": metadata, "weight_map": {name: layout.files[name] for name in weights}}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _names_in_common(original: Checkpoint, tuned: Checkpoint) -> list[str]:
    one_sided = original.files.keys() ^ tuned.files.keys()
    one_sided -= {name for name in original.files.keys() - tuned.files.keys() if COMPUTED.search(name)}
    if one_sided == {HEAD} and _ties_head(original) and _ties_head(tuned):
        one_sided = set()
    if one_sided:
        raise MergeError(
            f"The tensors differ: {few(one_sided & original.files.keys())} only in {original.folder}, "
            f"{few(one_sided & tuned.files.keys())} only in {tuned.folder}; merge models of one architecture and "
            f"one tie_word_embeddings; if that is true, {HEAD} must be a copy of the embeddings"
        )
    names = [name for name in tuned.files if name in original.files]
    shapes = ((name, original.shapes[name], tuned.shapes[name]) for name in names)
    if differ := [f"{name} {before} and {after}" for name, before, after in shapes if before != after]:
        raise MergeError(
            f"The shapes differ in {original.folder} and {tuned.folder}: {few(differ)}; merge models of one size, and "
            "resize both embeddings to the same vocabulary first"
        )
    return names


def _ties_head(model: Checkpoint) -> bool:
    # By the configuration class: many config.json leave the key out if it is the default of their class.
    if not getattr(AutoConfig.from_pretrained(model.folder).get_text_config(), "tie_word_embeddings", False):
        return False
    if HEAD not in model.files:
        return True
    # Transformers does not tie a head that differs from the embeddings, so neither may it be dropped here.
    twins = [name for name in model.files if name != HEAD and model.shapes[name] == model.shapes[HEAD]]
    return any(torch.equal(load_tensor(model, HEAD), load_tensor(model, name)) for name in twins)


def _merge_shard(
    original: Checkpoint, tuned: Checkpoint, weights: Mapping[str, float], target: Path, layout: Checkpoint
) -> int:
    merged = {}
    for name, weight in weights.items():
        before, after = load_tensor(original, name), load_tensor(tuned, name)
        dtype = (before if layout is original else after).dtype
        try:
            merged[name] = interpolate(before, after, weight, dtype).contiguous()
        except MergeError as error:
            raise MergeError(f"{name}: {error}") from None
        del before, after
    save_file(merged, target, metadata={"format": "pt"})
    share(target)
    return sum(tensor.nbytes for tensor in merged.values())
