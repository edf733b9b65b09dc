"""Settings files of a model folder, in a form that transformers 4 and 5 and other tools read alike."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from longrecipe.models.rope import rope_keys
from longrecipe.system.files import read_json, write_json

# How and from where transformers 5 loaded a tokenizer, which is not a property of the tokenizer.
_OF_LOADING = ("is_local", "local_files_only", "_name_or_path", "name_or_path")


def readable_config(settings: Mapping[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Copy the settings of a config.json, with RoPE and dtype under their old and new names.

    Args: settings: the content of the file; other keys are kept. config: the configuration whose RoPE is written,
    including defaults of its class, which the file may leave out.
    """
    written = rope_keys(config)
    result = dict(settings) | written
    if (scaling := settings.get("rope_scaling")) and "rope_scaling" not in written:
        # transformers 5 prefers this dictionary, so its RoPE values must be updated too.
        result["rope_scaling"] = scaling | {k: v for k, v in config.rope_parameters.items() if k in scaling}
    dtype = settings.get("dtype", settings.get("torch_dtype"))
    if dtype is not None:
        result |= {"dtype": dtype, "torch_dtype": dtype}
    return result


def readable_tokenizer(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the settings of a tokenizer_config.json under names that transformers 4 knows, without traces of loading."""
    result = {key: value for key, value in settings.items() if key not in _OF_LOADING}
    if result.get("tokenizer_class") == "TokenizersBackend":
        result["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(result.get("extra_special_tokens"), list):
        # transformers 4 fails if this is a list; both versions read the older name.
        extra = result.pop("extra_special_tokens")
        result["additional_special_tokens"] = [*(result.get("additional_special_tokens") or []), *extra]
    return result


def tidy(folder: Path, **changes: Any) -> Path:
    """Rewrite the settings files of a folder saved by save_pretrained, and set the usual file modes.

    Args: changes: keys of config.json to set, such as use_cache. Returns the folder.
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
    """Set the mode of a file from the umask, as for any new file; safetensors lets only the owner read it."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)
