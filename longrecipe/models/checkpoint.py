"""Read model folders: which safetensors file holds each tensor, from the headers, and single tensors."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Files that are not copied along with merged weights: weights in any format, trainer states, lists of shards.
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".gguf", ".onnx", ".index.json")


class MergeError(ValueError):
    """A model folder cannot be read, or two of them cannot be merged as asked."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model folder: the file, shape and dtype (such as "BF16") of each."""

    folder: Path
    files: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]


def read_checkpoint(folder: Path) -> Checkpoint:
    """Find the tensors of a model folder, in one file or from the index, as transformers does. Only reads headers.

    Raises:
        MergeError: no such folder, no config.json, no safetensors, or an index that does not match the files.
    """
    if not (folder / "config.json").is_file():
        raise MergeError(f"{folder} has no config.json; pass a model folder, as saved by save_pretrained")
    if (folder / SINGLE).is_file():
        files = None
    elif (folder / INDEX).is_file():
        files = read_index(folder).get("weight_map") or {}
    else:
        found = few(path.name for path in folder.iterdir() if path.name.endswith(WEIGHTS))
        raise MergeError(
            f"{folder} has neither {SINGLE} nor {INDEX}, but {found}; convert the model to safetensors: load it with "
            "transformers, call merge_and_unload if it is an adapter, then save_pretrained"
        )
    shapes, dtypes = {}, {}
    for shard in sorted(set(files.values())) if files is not None else [SINGLE]:
        # The index may be downloaded, and files with these names are written, so they must not leave the folder.
        if Path(shard).name != shard or not (folder / shard).is_file():
            raise MergeError(f"{folder / INDEX} lists {shard!r}, which is not in the folder; download the model again")
        with _opened(folder / shard) as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                shapes[name], dtypes[name] = tuple(tensor.get_shape()), tensor.get_dtype()
    if files is None:
        files = dict.fromkeys(shapes, SINGLE)
    if lost := files.keys() - shapes.keys():
        raise MergeError(f"{folder} lacks {few(lost)}, listed in {INDEX}; download or save the model again")
    return Checkpoint(folder, files, shapes, dtypes)


def load_tensor(model: Checkpoint, name: str) -> torch.Tensor:
    """One tensor of a model folder."""
    with _opened(model.folder / model.files[name]) as file:
        return file.get_tensor(name)


def fingerprint(folder: Path) -> str:
    """A hash that identifies a model, of its settings and tokenizer and of 512 bytes of every tensor.

    Training changes every tensor, so a model that was trained again in the same folder gets another hash. File times
    do not matter, as they differ between copies. Takes milliseconds at any size.
    """
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.iterdir() if each.suffix in (".json", ".model", ".safetensors")):
        digest.update(path.name.encode())
        if path.suffix == ".safetensors":
            for piece in _samples(path):
                digest.update(piece)
        else:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    """The header of a safetensors file, and the first and the middle 256 bytes of every tensor."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size)
        yield header
        try:
            tensors = [value["data_offsets"] for name, value in json.loads(header).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            # A damaged file, which is reported when it is loaded.
            return
        for start, end in sorted(tensors):
            for place in (start, (start + end) // 2):
                file.seek(8 + size + place)
                yield file.read(min(256, end - place))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        opened = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise MergeError(f"{path} is not a readable safetensors file ({error}); download or save it again") from error
    with opened as file:
        yield file


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a sharded model. Raises MergeError if it is not valid JSON."""
    try:
        return json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise MergeError(
            f"{folder / INDEX} is not readable JSON ({error}); download or save the model again"
        ) from error


def few(names: Iterable[str], limit: int = 3) -> str:
    """The first few names, for a message."""
    names = sorted(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) or "nothing") + more
