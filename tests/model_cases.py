"""Small models as people bring them, with random weights and a byte-level tokenizer; each is made in milliseconds.

Used by the tests of exports. Window 64, target 512; noise on the weights of the raised model stands for training.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

from longrecipe import models
from longrecipe import settings as params
from longrecipe.models.formats import tidy
from longrecipe.settings import Params

WINDOW, TARGET, VOCABULARY = 64, 512, 320
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEXT = "The river runs by the town.\n\nIt has 42 boats; who counts them? "
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # Ten times the usual, so that an untrained model looks at its context.
    "initializer_range": 0.2,
}
_GROUPED = _SHAPE | {"num_key_value_heads": 2}
KINDS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_GROUPED),
    "mistral": lambda: MistralConfig(**_GROUPED, sliding_window=None),
    "qwen2": lambda: Qwen2Config(**_GROUPED),
    "qwen3": lambda: Qwen3Config(**_GROUPED, head_dim=16),
    "olmo2": lambda: Olmo2Config(**_GROUPED),
    "stablelm": lambda: StableLmConfig(**_GROUPED, rope_parameters=_partly(0.5)),
    "phi": lambda: PhiConfig(**_SHAPE, rope_parameters=_partly(0.5)),
    "gptneox": lambda: GPTNeoXConfig(**_SHAPE, rope_parameters=_partly(0.5)),
}


def _partly(share: float) -> dict:
    # Not the default of any class, so that a reader who misses it is found out.
    return {"rope_type": "default", "rope_theta": 2.0e4, "partial_rotary_factor": share}


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few longer pieces, control tokens of a chat, and a chat template."""
    bare = Tokenizer(BPE())
    bare.pre_tokenizer, bare.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bare.train_from_iterator([TEXT * 9], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bare, bos_token=SPECIAL[0], eos_token=SPECIAL[0], model_max_length=WINDOW
    )
    fast.chat_template = TEMPLATE
    return fast


def base(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, shard: str = "1GB", **changes) -> Path:
    """A base model as plain save_pretrained writes it; changes: of its configuration."""
    config = KINDS[kind]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = AutoModelForCausalLM.from_config(config)
    network.to(dtype).save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    return folder


def stage(base_folder: Path, folder: Path, **changes) -> Path:
    """What training leaves of a base: its raised model with other weights, saved as `train.run_stage` saves it."""
    network = models.load(base_folder, target_length=TARGET)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter += 0.1 * parameter.std(correction=0) * torch.randn_like(parameter)
    network.save_pretrained(folder)
    return tidy(folder, **changes)


def settings(base_folder: Path, out: Path | None = None, **changes) -> Params:
    """Settings of a run on a base of your own at scale small, from W = 64 to T = 512."""
    own = {
        "model": "mine",
        "weights": str(base_folder),
        "window": WINDOW,
        "target_length": TARGET,
        "replay_length": None,
    }
    own |= {"probe_window": 128, "probe_length": None, "analysis_length": None, "eval_lengths": None}
    own |= {"out": None if out is None else str(out), "merge_rule": "uniform"}
    given = params.load("smollm2", "small").model_dump()
    return Params(**given | own | changes)


# changes to a folder that is there


def edit_json(path: Path, drop: tuple[str, ...] = (), **changes) -> Path:
    """Set and drop keys of a JSON file, which is made if it is missing."""
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in drop} | changes))
    return path


def old_style(folder: Path, theta: float = 5.0e5, **changes) -> Path:
    """The configuration as transformers 4 wrote it: rope_theta and torch_dtype at the top."""
    old = {"rope_theta": theta, "rope_scaling": None, "torch_dtype": "float32", "transformers_version": "4.43.0"}
    edit_json(folder / "config.json", drop=("rope_parameters", "dtype"), **old | changes)
    return folder


def add_tensors(folder: Path, names: list[str]) -> Path:
    """Store further tensors beside those of the model, as old checkpoints do with buffers."""
    tensors = load_file(folder / "model.safetensors") | {name: torch.ones(4) for name in names}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def copy(folder: Path, to: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(folder, to))
