"""Merge a tuned model with its original, tensor by tensor, from safetensors files (paper, section 4.3, stage 3)."""

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
_QK_PROJ = re.compile(r"\b[qk]_proj\.")
# With the norms that some families (Qwen3) have behind the projections.
_QK = re.compile(r"\b[qk]_(proj|norm|layernorm)\.")
# Buffers in old checkpoints, which transformers computes from the configuration.
COMPUTED = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$")

logger = logging.getLogger(__name__)


def interpolate(
    original: torch.Tensor, tuned: torch.Tensor, weight: float, *, dtype: torch.dtype | None = None
) -> torch.Tensor:
    """Average two tensors: theta = l1 * original + l2 * tuned, l1 = weight, l2 = 1 - l1 (section 4.3, stage 3).

    Computed in float32 (float64 if a tensor is), then cast. Equal tensors are unchanged. A weight of 0 gives tuned and
    a weight of 1 the original, in the dtype of the result, bit for bit.

    Args:
        original: any shape and dtype.
        tuned: the same shape.
        weight: l1, within [0, 1].
        dtype: of the result; None means that of tuned.

    Returns:
        A tensor with the shape of tuned.

    Raises:
        MergeError: 8-bit floats, integer or boolean tensors that differ, or values beyond the range of dtype.
    """
    kinds = f"{original.dtype} and {tuned.dtype}"
    if not (original.is_floating_point() and tuned.is_floating_point()):
        if original.dtype != tuned.dtype or not torch.equal(original, tuned):
            raise MergeError(
                f"{kinds} tensors cannot be averaged, so they must be equal, but they differ; dequantize both models"
            )
        return tuned
    if min(original.element_size(), tuned.element_size()) < 2:
        raise MergeError(
            f"{kinds}: 8-bit floats cannot be averaged without their scales; dequantize both models to bfloat16"
        )
    dtype = dtype or tuned.dtype
    if weight == 0:
        merged = tuned
    elif weight == 1:
        merged = original
    else:
        wide = torch.promote_types(torch.float32, torch.promote_types(original.dtype, tuned.dtype))
        merged = torch.lerp(tuned.to(wide), original.to(wide), weight)
    cast = merged.to(dtype)
    # Only float16 has a smaller range than the other dtypes; larger values would become infinite.
    if dtype == torch.float16 and merged.dtype != dtype and not torch.equal(cast.isfinite(), merged.isfinite()):
        raise MergeError(
            f"values up to {merged.abs().max().item():.4g} exceed the maximum of float16, {torch.finfo(dtype).max:g}; "
            "convert the original model to bfloat16 and run again"
        )
    return cast


def merge_weights(
    original_dir: str | os.PathLike,
    tuned_dir: str | os.PathLike,
    folder: Path,
    *,
    weight: float = 0.5,
    rule: str = "uniform",
    layout: str = "tuned",
) -> None:
    """Write the merged tensors theta = weight * original + (1 - weight) * tuned, and no other files.

    Holds one merged shard and one pair of tensors in memory, never a whole model. Buffers of old checkpoints that
    transformers computes (rotary_emb.inv_freq, GPT-NeoX's attention.bias) are left out if only the original has them.
    An LM head that only one folder has is left out if both configurations tie it to the embeddings and it is a copy of
    them: transformers ties it again when it loads the model.

    Args:
        original_dir: folder of the model before extension, with safetensors in one file or any number of shards.
        tuned_dir: folder of the extended and replayed model, in the same format.
        folder: an empty folder that exists.
        weight: lambda1, the share of the original, within [0, 1]; 0.5 in the paper.
        rule: `uniform`, the paper's rule, averages all tensors. `spare_qk`, our rule, keeps the tuned query and key
            projections and their norms. RoPE only rotates queries and keys, so these are tuned to one RoPE base, and
            averaging weights trained with different bases fits neither.
        layout: the model, `tuned` or `original`, whose dtypes, file names and distribution of tensors over files the
            result has.

    Raises:
        MergeError: a weight outside [0, 1], an unknown rule or layout, missing or unreadable files, pickle files only,
            or tensors whose names or shapes differ or that cannot be averaged.
    """
    if layout not in LAYOUTS:
        raise MergeError(f"layout is {layout!r}, but must be one of {', '.join(LAYOUTS)}")
    original, tuned, weights = _plan(original_dir, tuned_dir, weight=weight, rule=rule)
    _write(original, tuned, weights, folder=folder, layout=tuned if layout == "tuned" else original)


def merge(
    original_dir: str | os.PathLike,
    tuned_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    weight: float = 0.5,
    rule: str = "uniform",
) -> Path:
    """Write the model theta = weight * original + (1 - weight) * tuned to a new folder (section 4.3, stage 3).

    The shards, dtypes, configuration (with its RoPE and the longer window), tokenizer and other small files
    are those of the tuned model. out_dir only appears once it is complete.

    Args:
        original_dir, tuned_dir, weight, rule: as in `merge_weights`.
        out_dir: a folder that does not exist yet, or is empty.

    Returns:
        out_dir.

    Raises:
        MergeError: as in `merge_weights`, and if out_dir is in use.
    """
    original, tuned, weights = _plan(original_dir, tuned_dir, weight=weight, rule=rule)
    out = Path(out_dir)
    if out.resolve() in (original.folder.resolve(), tuned.folder.resolve()):
        raise MergeError(f"out_dir {out} is one of the models to merge; choose a folder that does not exist yet")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise MergeError(f"out_dir {out} exists and is not an empty folder; choose another, or remove it first")
    with new_folder(out) as folder:
        _write(original, tuned, weights, folder=folder, layout=tuned)
        for path in tuned.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, folder / path.name)
            elif path.name == "additional_chat_templates":  # the one subfolder that belongs to a tokenizer
                shutil.copytree(path, folder / path.name)
    return out


def _plan(
    original_dir: str | os.PathLike, tuned_dir: str | os.PathLike, *, weight: float, rule: str
) -> tuple[Checkpoint, Checkpoint, dict[str, float]]:
    """Both models, and the share of the original for every tensor to merge."""
    if not 0 <= weight <= 1:
        raise MergeError(f"weight is {weight}, but must be within [0, 1]: the share of the original, 0.5 in the paper")
    if rule not in RULES:
        raise MergeError(f"rule is {rule!r}, but must be one of {', '.join(RULES)}")
    original, tuned = read_checkpoint(Path(original_dir)), read_checkpoint(Path(tuned_dir))
    names = _names_in_common(original, tuned)
    weights = dict.fromkeys(names, weight)
    if rule == "spare_qk":
        weights |= dict.fromkeys(_query_key_names(tuned), 0.0)
    return original, tuned, weights


def check_rule(original_dir: str | os.PathLike, rule: str) -> None:
    """Check, before training, that a model can be merged with a rule.

    Raises:
        MergeError: an unknown rule, a folder that `read_checkpoint` cannot read, or no query and key projections.
    """
    if rule not in RULES:
        raise MergeError(f"rule is {rule!r}, but must be one of {', '.join(RULES)}")
    original = read_checkpoint(Path(original_dir))
    if rule == "spare_qk":
        _query_key_names(original)


def _query_key_names(model: Checkpoint) -> list[str]:
    """The names of the tensors of the query and key projections, and of their norms."""
    if not any(map(_QK_PROJ.search, model.files)):
        raise MergeError(
            f"{model.folder} has no tensors named q_proj or k_proj, which merge_rule = 'spare_qk' does not average; "
            "set merge_rule to 'uniform'"
        )
    return [name for name in model.files if _QK.search(name)]


def _write(
    original: Checkpoint, tuned: Checkpoint, weights: Mapping[str, float], *, folder: Path, layout: Checkpoint
) -> None:
    n_bytes = 0
    for shard in sorted({layout.files[name] for name in weights}):
        inside = {name: weight for name, weight in weights.items() if layout.files[name] == shard}
        n_bytes += _merge_shard(original, tuned, inside, target=folder / shard, layout=layout)
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
            f"{few(one_sided & tuned.files.keys())} only in {tuned.folder}; merge models with the same architecture "
            f"and tie_word_embeddings; if it is true, {HEAD} must be a copy of the embeddings"
        )
    names = [name for name in tuned.files if name in original.files]
    shapes = ((name, original.shapes[name], tuned.shapes[name]) for name in names)
    if differ := [f"{name} {before} and {after}" for name, before, after in shapes if before != after]:
        raise MergeError(
            f"The shapes differ in {original.folder} and {tuned.folder}: {few(differ)}; merge models of the same size, "
            "and first resize both embeddings to the same vocabulary"
        )
    return names


def _ties_head(model: Checkpoint) -> bool:
    # Read by the configuration class, as many config.json leave out keys that have the default value.
    if not getattr(AutoConfig.from_pretrained(model.folder).get_text_config(), "tie_word_embeddings", False):
        return False
    if HEAD not in model.files:
        return True
    # transformers does not tie a head that differs from the embeddings, so it must not be left out.
    candidates = [name for name in model.files if name != HEAD and model.shapes[name] == model.shapes[HEAD]]
    return any(torch.equal(load_tensor(model, HEAD), load_tensor(model, name)) for name in candidates)


def _merge_shard(
    original: Checkpoint, tuned: Checkpoint, weights: Mapping[str, float], *, target: Path, layout: Checkpoint
) -> int:
    """Write one file of merged tensors and return their size in bytes."""
    merged = {}
    for name, weight in weights.items():
        before, after = load_tensor(original, name), load_tensor(tuned, name)
        dtype = (before if layout is original else after).dtype
        try:
            merged[name] = interpolate(before, after, weight, dtype=dtype).contiguous()
        except MergeError as error:
            raise MergeError(f"{name}: {error}") from None
        del before, after
    save_file(merged, target, metadata={"format": "pt"})
    share(target)
    return sum(tensor.nbytes for tensor in merged.values())
