"""The suites of standard benchmarks: their tasks in lm-evaluation-harness, and what they need."""

import importlib.util
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from longrecipe.bench.ruler import RULER
from longrecipe.evaluate import NIAH_M

EXTRA = "pip install 'longrecipe[eval]'"
# Prompts of a task and length, in RULER.
MOST = 500


@dataclass(frozen=True)
class Suite:
    """A suite of benchmarks.

    Args:
        title: its name in tables.
        folder: of its tasks, in `lm_eval/tasks`; empty if the harness does not have them.
        pattern: the files of its tasks there; empty if tasks are listed.
        prefix: of a task's name, before the name of its file.
        metric: the score of a prompt, as the harness names it.
        shots: solved examples before the question.
        tasks: its tasks, if they are listed; else they are found by pattern.
        packages: that the harness needs for it, besides its own.
        n_tasks: how many tasks it has; the harness, which knows them, may not be installed.
        typical_tokens: of a prompt, for an estimate without data; 0 if the length is chosen.
        generated: most tokens that the model generates; 0 if the length of prompts is chosen, whose tasks differ.
        answer: tokens of an answer for an estimate without data, as the mean over its tasks; 0 takes generated.
        n_prompts: of a whole task, for an estimate without data.
        by_length: whether the length of prompts is chosen, as in RULER; the answer is a part of it.
        runs_code: whether it runs code that the model has written.
    """

    title: str
    folder: str
    metric: str
    n_tasks: int
    pattern: str = ""
    prefix: str = ""
    shots: int = 0
    tasks: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    typical_tokens: int = 0
    generated: int = 0
    answer: int = 0
    n_prompts: int = 0
    by_length: bool = False
    runs_code: bool = False

    def names(self) -> tuple[str, ...]:
        """Its tasks in the harness."""
        if self.tasks:
            return self.tasks
        files = sorted((tasks_folder() / self.folder).glob(self.pattern))
        return tuple(self.prefix + file.stem for file in files if not file.stem.endswith("_e"))


_RULER = {"folder": "ruler", "metric": "score", "packages": ("wonderwords", "nltk"), "by_length": True}
SUITES: dict[str, Suite] = {
    # Like the paper: multi-key, multi-value and multi-query needles. A part of ruler.
    "niah_m": Suite("NIAH(M)", n_tasks=3, tasks=("niah_multikey_1", "niah_multivalue", "niah_multiquery"), **_RULER),
    # This kit's own, see `bench.needles`. Answers are counted with SmolLM2's tokenizer.
    "needles": Suite("own needles", "", "score", n_tasks=3, tasks=NIAH_M, by_length=True, answer=48),
    "ruler": Suite("RULER", n_tasks=13, tasks=tuple(RULER), **_RULER),
    "longbench": Suite(
        "LongBench",
        "longbench",
        "score",
        n_tasks=21,
        pattern="[!_]*.yaml",
        prefix="longbench_",
        packages=("jieba", "fuzzywuzzy", "rouge"),
        typical_tokens=11_000,
        generated=512,
        answer=151,
        n_prompts=226,
    ),
    "mmlu": Suite(
        "MMLU",
        "mmlu/default",
        "acc",
        n_tasks=57,
        pattern="mmlu_*.yaml",
        shots=5,
        typical_tokens=700,
        n_prompts=246,
    ),
    "gsm8k": Suite(
        "GSM8K",
        "gsm8k",
        "exact_match",
        n_tasks=1,
        tasks=("gsm8k",),
        shots=5,
        typical_tokens=900,
        generated=256,
        n_prompts=1319,
    ),
    "humaneval": Suite(
        "HumanEval",
        "humaneval",
        "pass@1",
        n_tasks=1,
        tasks=("humaneval",),
        packages=("evaluate",),
        typical_tokens=180,
        generated=1024,
        n_prompts=164,
        runs_code=True,
    ),
}


def tasks_folder() -> Path:
    """The folder of the harness's tasks. Raises ImportError that names the extra."""
    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the standard benchmarks need lm-evaluation-harness, which is not installed: {EXTRA}")
    return Path(found.submodule_search_locations[0]) / "tasks"


def check_packages(suites: Collection[str]) -> None:
    """Raise ImportError that names the extra if a suite needs a package that is not installed."""
    tasks_folder()
    for name in suites:
        for package in SUITES[name].packages:
            if importlib.util.find_spec(package) is None:
                raise ImportError(f"the benchmark {name} needs {package}, which is not installed: {EXTRA}")


def to_run(suites: Sequence[str]) -> tuple[str, ...]:
    """The suites to run: without niah_m if ruler is asked for, which contains it."""
    return tuple(name for name in dict.fromkeys(suites) if not (name == "niah_m" and "ruler" in suites))
