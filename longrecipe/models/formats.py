"""Settings files of a model folder, written so that transformers 4 and 5 and other tools read the same from them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from longrecipe.models.rope import rope_keys
from longrecipe.system.files import read_json, write_json

# What transformers 5 writes about the way a tokenizer was loaded, and where from: no property of the tokenizer.
_OF_LOADING = ("is_local", "local_files_only", "_name_or_path", "name_or_path")


def readable_config(settings: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Copy the settings of a config.json, with its RoPE and its dtype under the old names and the new ones.

    settings: the file's content, of which all other keys are kept. config: the transformers configuration whose RoPE is
    written; defaults of its class included, which a file may leave out.
    """
    result = dict(settings) | rope_keys(config)
    if scaling := settings.get("rope_scaling"):
        # transformers 5 prefers this dictionary, so what it repeats of the RoPE must not be older.
        result["rope_scaling"] = scaling | {k: v for k, v in config.rope_parameters.items() if k in scaling}
    dtype = settings.get("dtype", settings.get("torch_dtype"))
    if dtype is not None:
        result |= {"dtype": dtype, "torch_dtype": dtype}
    return result


def readable_tokenizer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the settings of a tokenizer_config.json, without traces of loading, in names that transformers 4 knows."""
    result = {key: value for key, value in settings.items() if key not in _OF_LOADING}
    if result.get("tokenizer_class") == "TokenizersBackend":
        result["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(result.get("extra_special_tokens"), list):
        # transformers 4 fails at a list under this name, and both read the older one.
        extra = result.pop("extra_special_tokens")
        result["additional_special_tokens"] = [*(result.get("additional_special_tokens") or []), *extra]
    return result


def tidy(folder: Path, **changes: Any) -> Path:
    """Rewrite the settings files of a folder that save_pretrained made, in place, and open its files to readers.

    changes: keys of config.json to set, such as use_cache. Returns the folder.
    """
    path = folder / "config.json"
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    write_json(path, dict(sorted((readable_config(read_json(path), config) | changes).items())))
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        write_json(tokenizer, readable_tokenizer(read_json(tokenizer)))
    for weights in folder.glob("*.safetensors"):
        share(weights)
    return folder


def share(path: Path) -> None:
    """Give a file the mode that any new file has here, by the umask: safetensors makes files that only we can read."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
