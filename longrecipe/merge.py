"""Merge a tuned model with the one it came from, tensor by tensor over safetensors (paper, section 4.3, stage 3)."""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import AutoConfig

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# What is not copied beside the merged weights: weights in any form, trainer states, and lists of shards.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json")
HEAD = "lm_head.weight"
RULES = ("uniform", "spare_qk")
_QK = re.compile(r"\b[qk]_proj\.")

logger = logging.getLogger(__name__)


class MergeError(ValueError):
    """Two model folders cannot be merged as asked."""


@dataclass(frozen=True)
class Checkpoint:
    """A model folder: which of its safetensors files holds each tensor, and its shape."""

    folder: Path
    files: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def interpolate(original: torch.Tensor, tuned: torch.Tensor, weight: float) -> torch.Tensor:
    """Average two tensors: theta = l1 * original + l2 * tuned, l1 = weight, l2 = 1 - l1 (section 4.3, stage 3).

    Computed in float32 (float64 where a tensor is), then cast. Equal tensors stay as they are; weight 0 gives tuned
    and weight 1 the original in tuned's dtype, bit for bit.

    Args:
        original: any shape and dtype.
        tuned: the same shape.
        weight: l1, within [0, 1].

    Returns:
        A tensor of tuned's shape and dtype.

    Raises:
        MergeError: 8-bit floats, or tensors of other types (integers, booleans) that differ.
    """
    kinds = f"{original.dtype} and {tuned.dtype}"
    if not (original.is_floating_point() and tuned.is_floating_point()):
        if original.dtype != tuned.dtype or not torch.equal(original, tuned):
            raise MergeError(f"{kinds} tensors have no average, so must be equal, but differ; dequantize both models")
        return tuned
    if min(original.element_size(), tuned.element_size()) < 2:
        raise MergeError(f"{kinds}: 8-bit floats mean nothing without their scales; dequantize both to bfloat16")
    if weight == 0:
        return tuned
    if weight == 1:
        return original.to(tuned.dtype)
    wide = torch.promote_types(torch.float32, torch.promote_types(original.dtype, tuned.dtype))
    return torch.lerp(tuned.to(wide), original.to(wide), weight).to(tuned.dtype)


def merge(
    original_dir: str | os.PathLike,
    tuned_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
    weight: float = 0.5,
    rule: str = "uniform",
) -> Path:
    """Write the model theta = weight * original + (1 - weight) * tuned to a new folder (section 4.3, stage 3).

    Sharding, dtypes, configuration (the raised RoPE base, the longer window), tokenizer and other small files are
    the tuned model's. It holds one merged shard and one pair of tensors in memory, never a whole model. out_dir
    appears when it is complete, not before.

    An LM head in one folder only is left out where both configurations tie it to the embeddings and it is their copy:
    it is no tensor of its own, and transformers ties it again on loading.

    Args:
        original_dir: the model before extension; a folder with safetensors, in one file or sharded in any way.
        tuned_dir: the extended, replayed model, likewise.
        out_dir: a folder that does not exist yet, or is empty.
        weight: lambda1, the original's share, within [0, 1]; the paper's is 0.5.
        rule: `uniform`, the paper's: all tensors are averaged. `spare_qk`, ours: the projections of queries and keys
            stay as they were tuned. RoPE turns these alone, so they are made for one RoPE base, the tuned ones for the
            raised base and the original's for its own, and an average of both suits neither.

    Returns:
        out_dir.

    Raises:
        MergeError: a weight outside [0, 1], an unknown rule, missing or unreadable files, pickles only, tensors whose
            names or shapes differ or that have no average, or an out_dir in use.
    """
    if not 0 <= weight <= 1:
        raise MergeError(f"weight is {weight}, but must be within [0, 1]: the original's share, 0.5 in the paper")
    if rule not in RULES:
        raise MergeError(f"rule is {rule!r}, but must be one of {', '.join(RULES)}")
    original, tuned, out = read_checkpoint(Path(original_dir)), read_checkpoint(Path(tuned_dir)), Path(out_dir)
    if out.resolve() in (original.folder.resolve(), tuned.folder.resolve()):
        raise MergeError(f"out_dir {out} is one of the models to merge; choose a folder that does not exist yet")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise MergeError(f"out_dir {out} exists and is not an empty folder; choose another, or remove it first")
    names = _names_in_common(original, tuned)
    weights = dict.fromkeys(names, weight)
    if rule == "spare_qk":
        spared = [name for name in names if _QK.search(name)]
        if not spared:
            raise MergeError(f"{tuned.folder} has no tensors named q_proj or k_proj to spare; merge by rule 'uniform'")
        weights |= dict.fromkeys(spared, 0.0)

    out.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the last step is a rename on one disk; the inner folder has ordinary permissions.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch, "model")
        folder.mkdir()
        n_bytes = 0
        for shard in sorted({tuned.files[name] for name in names}):
            n_bytes += _merge_shard(original, tuned, shard, weights, folder / shard)
            logger.info("merged %s of %s and %s", shard, original.folder, tuned.folder)
        if SINGLE not in tuned.files.values():
            index = _read_index(tuned.folder)
            metadata = (index.get("metadata") or {}) | {"total_size": n_bytes}
            index = {"metadata": metadata, "weight_map": {name: tuned.files[name] for name in names}}
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        for path in tuned.folder.iterdir():
            if path.is_file() and not path.name.endswith(WEIGHTS):
                shutil.copyfile(path, folder / path.name)
            elif path.name == "additional_chat_templates":  # the one subfolder that belongs to a tokenizer
                shutil.copytree(path, folder / path.name)
        if out.exists():
            out.rmdir()
        folder.replace(out)
    return out


def read_checkpoint(folder: Path) -> Checkpoint:
    """Find the tensors of a model folder, in one file or by the index, as transformers would; reads headers only.

    Raises:
        MergeError: no such folder, no config.json, no safetensors, or an index that does not fit its files.
    """
    if not (folder / "config.json").is_file():
        raise MergeError(f"{folder} has no config.json; pass a model folder, as written by save_pretrained")
    if (folder / SINGLE).is_file():
        files = None
    elif (folder / INDEX).is_file():
        files = _read_index(folder).get("weight_map") or {}
    else:
        found = _few(path.name for path in folder.iterdir() if path.name.endswith(WEIGHTS))
        raise MergeError(
            f"{folder} has neither {SINGLE} nor {INDEX}, but {found}; convert to safetensors: load the model with "
            "transformers, for an adapter call merge_and_unload, then save_pretrained"
        )
    shapes = {}
    for shard in sorted(set(files.values())) if files is not None else [SINGLE]:
        # An index is a download: the names in it are written to as well, so they must stay in the folder.
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise MergeError(f"{folder / INDEX} lists {shard!r}, which is not in the folder; download the model again")
        with _opened(folder / shard) as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if files is None:
        files = dict.fromkeys(shapes, SINGLE)
    if lost := files.keys() - shapes.keys():
        raise MergeError(f"{folder} lacks {_few(lost)}, which {INDEX} promises; download or save the model again")
    return Checkpoint(folder, files, shapes)


def _names_in_common(original: Checkpoint, tuned: Checkpoint) -> list[str]:
    one_sided = original.files.keys() ^ tuned.files.keys()
    if one_sided == {HEAD} and _ties_head(original) and _ties_head(tuned):
        one_sided = set()
    if one_sided:
        raise MergeError(
            f"The tensors differ: {_few(one_sided & original.files.keys())} only in {original.folder}, "
            f"{_few(one_sided & tuned.files.keys())} only in {tuned.folder}; merge models of one architecture and "
            f"one tie_word_embeddings and, where that is true, no {HEAD} other than a copy of the embeddings"
        )
    names = [name for name in tuned.files if name in original.files]
    shapes = ((name, original.shapes[name], tuned.shapes[name]) for name in names)
    if differ := [f"{name} {before} and {after}" for name, before, after in shapes if before != after]:
        raise MergeError(
            f"The shapes differ in {original.folder} and {tuned.folder}: {_few(differ)}; merge models of one size, and "
            "resize both embeddings to the same vocabulary first"
        )
    return names


def _ties_head(model: Checkpoint) -> bool:
    # By the configuration class: many a config.json leaves the key out where it is the default of its class.
    if not getattr(AutoConfig.from_pretrained(model.folder).get_text_config(), "tie_word_embeddings", False):
        return False
    if HEAD not in model.files:
        return True
    # Transformers does not tie a head that differs from the embeddings, so neither may it be dropped here.
    twins = [name for name in model.files if name != HEAD and model.shapes[name] == model.shapes[HEAD]]
    return any(torch.equal(_load(model, HEAD), _load(model, name)) for name in twins)


def _merge_shard(
    original: Checkpoint, tuned: Checkpoint, shard: str, weights: Mapping[str, float], target: Path
) -> int:
    merged = {}
    for name, weight in weights.items():
        if tuned.files[name] == shard:
            try:
                merged[name] = interpolate(_load(original, name), _load(tuned, name), weight).contiguous()
            except MergeError as error:
                raise MergeError(f"{name}: {error}") from None
    save_file(merged, target, metadata={"format": "pt"})
    return sum(tensor.nbytes for tensor in merged.values())


def _load(model: Checkpoint, name: str) -> torch.Tensor:
    with _opened(model.folder / model.files[name]) as file:
        return file.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise MergeError(f"{path} is no readable safetensors file ({error}); download or save it again") from error
    with opened as file:
        yield file


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MergeError(f"{folder / INDEX} is no readable JSON ({error}); download or save the model again") from error


def _few(names: Iterable[str], limit: int = 3) -> str:
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more
