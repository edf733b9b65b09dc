"""What `longrecipe cost` measures: training steps of models, methods, target lengths and memory setups."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace

import torch

from longrecipe import cost, models, positions
from longrecipe.families import FAMILIES
from longrecipe.settings.memory import Setup
from longrecipe.train import PLAIN

# As in the paper: 30 % of the tokens of the target.
RATIO = 0.3


@dataclass(frozen=True)
class Case:
    """One measurement: a model (by name and scale), a method, a target of T tokens, and a memory setup."""

    model: str
    scale: str
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
        changed = [f"{k}={v}" for k, v in asdict(self.setup).items() if v != getattr(usual, k)]
        return " ".join([self.model, self.method, f"T={self.target_length}", f"n={self.n_tokens}", *changed])


def mini_cases(lengths: Iterable[int] = (256, 512, 1024, 2048, 4096, 8192)) -> list[Case]:
    """Steps of 8 samples, as the mini recipe trains: FLT, PoSE and LongRecipe on each mini model to 10 and 16 windows,
    to 16 windows with the ratios of Figure 2; and every method of the paper on mini Llama-3 at the target lengths.
    """
    usual = Case("llama3", "mini", "longrecipe", 4096, PLAIN, batch_size=8, steps=6)
    cases = []
    for model in FAMILIES:
        for T, ratios in ((2560, (RATIO,)), (4096, (0.05, 0.1, 0.2, 0.3, 0.4))):
            one = replace(usual, model=model, target_length=T)
            cases += [replace(one, method="flt"), replace(one, method="pose")]
            cases += [replace(one, ratio=ratio) for ratio in ratios]
    for T in lengths:
        one = replace(usual, target_length=T, steps=12 if T < 2560 else 6)
        cases += [replace(one, method=method) for method in ("flt", "longrecipe", "rpes", "pose")]
    return list(dict.fromkeys(cases))


def gpu_cases(gpu_bytes: float) -> list[Case]:
    """The three models of the paper at 80k and 128k, each saving switched off, one at a time, and whole samples.

    Cases that need far more memory, according to the cost model, are left out (`cost.TRIED`).
    """
    base = Case("llama3", "paper", "longrecipe", 131072)
    cases = [base, replace(base, target_length=109227), replace(base, target_length=81920)]
    cases += [replace(base, model=name) for name in ("mistral", "qwen2")]
    cases.append(replace(base, model="qwen2", target_length=81920))
    changes = [change for change in cost.SAVINGS.values() if change]
    for change in (*changes, {"fp32_accumulation": True, "offload_activations": True}):
        cases.append(replace(base, setup=replace(base.setup, **change)))
    away = replace(base, method="flt", setup=Setup(offload_activations=True))
    cases += [replace(away, target_length=T) for T in (65536, 81920, 131072)]
    return [case for case in cases if _modelled(case).peak < cost.TRIED * gpu_bytes]


def cases_of(what: str) -> list[Case]:
    """The cases of `longrecipe cost WHAT`: mini or gpu. Raises ValueError for gpu if there is no GPU."""
    if what == "mini":
        return mini_cases()
    if not torch.cuda.is_available():
        raise ValueError("there is no GPU here: measure `mini`, or run this on a machine with a GPU of 80 GB.")
    return gpu_cases(torch.cuda.get_device_properties(0).total_memory)


def _modelled(case: Case) -> cost.Memory:
    config = models.config_of(case.model, case.scale)
    return cost.training_memory(config, case.n_tokens, case.setup, batch_size=case.batch_size)
