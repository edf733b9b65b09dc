"""The cases of `longrecipe cost`: training steps, reading, and a resume, by model, method, length and memory setup."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

import torch
from transformers import PreTrainedConfig

from longrecipe import cost, models, positions
from longrecipe.families import OF_THE_PAPER
from longrecipe.settings.memory import Setup
from longrecipe.train import PLAIN
from longrecipe.train.options import missing_compiler

# As in the paper: 30 % of the tokens of the target.
RATIO = 0.3


@dataclass(frozen=True)
class _OfModel:
    model: str
    scale: str

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration of the model."""
        return models.config_of(self.model, self.scale)


@dataclass(frozen=True)
class Case(_OfModel):
    """Training steps: a model (by name and scale), a method, a target of T tokens, and a memory setup."""

    method: str
    target_length: int
    setup: Setup = field(default_factory=Setup)
    batch_size: int = 1
    steps: int = 3
    ratio: float = RATIO

    @property
    def n_tokens(self) -> int:
        """Tokens of a sample: T for methods that read whole documents, else ratio * T."""
        whole = positions.find(self.method).text == "whole"
        return self.target_length if whole else int(self.ratio * self.target_length)

    @property
    def name(self) -> str:
        """A name with the model, method, lengths, and changes from the default setup of its scale."""
        usual = PLAIN if self.scale == "mini" else Setup()
        changed = [f"{key}={value}" for key, value in self.setup.changes(usual).items()]
        return " ".join([self.model, self.method, f"T={self.target_length}", f"n={self.n_tokens}", *changed])

    @property
    def modelled_bytes(self) -> float:
        """Memory that it needs on the GPU, according to the cost model."""
        need = cost.training_memory(
            self.config, self.n_tokens, self.setup, batch_size=self.batch_size, accumulated=False
        )
        return need.peak


@dataclass(frozen=True)
class Reading(_OfModel):
    """A model in bfloat16 reads a text of T tokens and writes an answer."""

    target_length: int
    setup: Setup = field(default_factory=Setup)

    @property
    def n_tokens(self) -> int:
        """Tokens of the text: T."""
        return self.target_length

    @property
    def name(self) -> str:
        """A name with the model and its length."""
        return f"{self.model} reads n={self.n_tokens}"

    @property
    def modelled_bytes(self) -> float:
        """Memory that it needs on the GPU: weights, keys and values of all tokens, and one block's activations."""
        c = self.config.get_text_config()
        return 2.0 * cost.counts(c).total + (2.0 * cost.cached_width(c) + cost.activation_bytes(c)) * self.n_tokens


@dataclass(frozen=True)
class Resuming(_OfModel):
    """A stage that is killed after its first checkpoint and resumes, of a model with the first blocks only.

    The process is killed while later steps run, so there must be a few more.
    """

    target_length: int
    setup: Setup = field(default_factory=Setup)
    batch_size: int = 1
    steps: int = 12
    save_steps: int = 4
    blocks: int = 2

    @property
    def n_tokens(self) -> int:
        """Tokens of a sample."""
        return int(RATIO * self.target_length)

    @property
    def name(self) -> str:
        """A name with the model and its optimizer."""
        return f"{self.model} resumes with {self.setup.optimizer}"

    @property
    def config(self) -> PreTrainedConfig:
        """The configuration of the model, with fewer blocks."""
        config = super().config
        text = config.get_text_config()
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: self.blocks]
        text.num_hidden_layers = self.blocks
        return config

    @property
    def modelled_bytes(self) -> float:
        """Memory that it needs on the GPU, according to the cost model."""
        return cost.training_memory(self.config, self.n_tokens, self.setup, accumulated=False).peak


Measured = Case | Reading | Resuming


def mini_cases(lengths: Iterable[int] = (256, 512, 1024, 2048, 4096, 8192)) -> list[Case]:
    """Steps of 8 samples, as the mini recipe trains: FLT, PoSE and LongRecipe on each mini model to 10 and 16 windows,
    to 16 windows with the ratios of Figure 2; and every method of the paper on mini Llama-3 at the target lengths.
    """
    usual = Case("llama3", "mini", "longrecipe", 4096, PLAIN, batch_size=8, steps=6)
    cases = []
    for model in OF_THE_PAPER:
        for T, ratios in ((2560, (RATIO,)), (4096, (0.05, 0.1, 0.2, 0.3, 0.4))):
            one = replace(usual, model=model, target_length=T)
            cases += [replace(one, method="flt"), replace(one, method="pose")]
            cases += [replace(one, ratio=ratio) for ratio in ratios]
    for T in lengths:
        one = replace(usual, target_length=T, steps=12 if T < 2560 else 6)
        cases += [replace(one, method=method) for method in ("flt", "longrecipe", "rpes", "pose")]
    return list(dict.fromkeys(cases))


def gpu_cases(gpu_bytes: float) -> list[Measured]:
    """The paper's models, the most informative cases first: the setup of params/paper, which offloads activations, then
    without offload, with compiled blocks and kept outputs of attention, to 80k, with float32 sums, and for the other
    models; reading 128k; a kill and a resume; then each saving switched off and whole samples.

    Cases that need far more memory than there is, according to the cost model, are left out (`cost.TRIED`).
    """
    away = Setup(offload_activations=True)
    paper = Case("llama3", "paper", "longrecipe", 131072, away)
    usual = replace(paper, setup=Setup(), steps=2)
    cases: list[Measured] = [
        paper,
        usual,
        *(replace(usual, setup=Setup(**change)) for change in cost.FASTER.values()),
        replace(usual, target_length=81920),
        Reading("llama3", "paper", 131072),
        Resuming("mistral", "paper", 65536),
        replace(usual, setup=replace(away, fp32_accumulation=True)),
        *(replace(usual, model=name, target_length=T) for T in (131072, 81920) for name in ("qwen2", "mistral")),
    ]
    cases += [replace(usual, setup=replace(Setup(), **change)) for change in cost.SAVINGS.values()]
    cases += [replace(usual, setup=away, method="flt", target_length=T) for T in (65536, 81920, 131072)]
    # Of cases of one name, which differ in the number of steps, the first.
    named = {case.name: case for case in reversed(cases)}
    return [case for case in cases if named[case.name] is case and case.modelled_bytes < cost.TRIED * gpu_bytes]


def dry_cases() -> list[Measured]:
    """The kinds of `gpu_cases` with mini models, so that the same code runs anywhere in about a minute.

    Without a GPU nothing is offloaded, without torchao moments have 16 bits, without a compiler nothing is compiled.
    """
    optimizer = "adamw_8bit" if find_spec("torchao") else "adamw_bf16"
    setup = Setup(optimizer=optimizer, offload_activations=torch.cuda.is_available())
    usual = Case("llama3", "mini", "longrecipe", 512, setup, steps=2)
    more = replace(setup, fp32_accumulation=True, keep_attention=True, compile=not missing_compiler())
    reading, resuming = Reading("llama3", "mini", 512, setup), Resuming("mistral", "mini", 512, setup)
    return [usual, replace(usual, setup=more), reading, resuming]


def cases_of(what: str) -> list[Measured]:
    """The cases of `longrecipe cost WHAT`: mini or gpu. Raises ValueError for gpu if there is no GPU."""
    if what == "mini":
        return mini_cases()
    if not torch.cuda.is_available():
        raise ValueError(
            "there is no GPU here: measure `mini`, try `gpu --dry-run`, or run this on a machine with a GPU of 80 GB."
        )
    return gpu_cases(torch.cuda.get_device_properties(0).total_memory)
