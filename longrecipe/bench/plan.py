"""What is asked of which models: check it, and make the prompts once, before any weights are loaded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.bench.hub import hub_data
from longrecipe.bench.suites import SUITES, check_packages, to_run
from longrecipe.settings.bench import Bench
from longrecipe.system.paths import cache_dir

if TYPE_CHECKING:
    # Its import takes seconds, which errors should not wait for.
    from longrecipe.bench.prompts import Prompts

# RULER's last words of a prompt are not part of its length in the harness.
_PREFIX_TOKENS = 256


@dataclass(frozen=True)
class Subject:
    """A model to score.

    Args:
        name: in tables, such as merged.
        identity: identifies its weights; results are kept in a folder of this name.
        window: in tokens.
        load: gives the model.
    """

    name: str
    identity: str
    window: int
    load: Callable[[], PreTrainedModel]


@dataclass(frozen=True)
class Plan:
    """What will be asked: the prompts of each suite, and the models. Make one with `prepare`."""

    subjects: tuple[Subject, ...]
    prompts: tuple["Prompts", ...]
    tokenizer: PreTrainedTokenizerBase
    chat_template: bool
    precision: str

    @property
    def pairs(self) -> list[tuple[Subject, "Prompts"]]:
        """The pairs of model and suite, without those for which the window of the model is too short."""
        every = [(subject, prompts) for subject in self.subjects for prompts in self.prompts]
        return [(subject, prompts) for subject, prompts in every if prompts.chosen(subject.window)]

    def left(self) -> list[tuple[Subject, "Prompts"]]:
        """The pairs that have not finished yet."""
        return [pair for pair in self.pairs if not self.path(*pair).is_file()]

    def path(self, subject: Subject, prompts: "Prompts") -> Path:
        """The file with the result of a model on a suite."""
        key = f"{prompts.key}{'-chat' if self.chat_template else ''}-{self.precision}"
        return cache_dir() / "bench" / subject.identity / f"{prompts.suite}-{key}.json"

    def counted(self) -> pd.DataFrame:
        """The prompts of each suite and length: tasks, prompts, their tokens (least, mean, most), the most tokens that
        are generated for one, and how many models are asked them and have answered."""
        rows = []
        for prompts in self.prompts:
            pairs = [pair for pair in self.pairs if pair[1] is prompts]
            for length, each in prompts.table.groupby("length", sort=False):
                asked = [pair for pair in pairs if length <= pair[0].window]
                finished = sum(self.path(*pair).is_file() for pair in asked)
                tokens = each["tokens"]
                row = {"suite": prompts.suite, "length": length, "tasks": each["task"].nunique(), "prompts": len(each)}
                row |= {"least": tokens.min(), "mean": round(tokens.mean()), "most": tokens.max()}
                rows.append(row | {"generated": each["generated"].max(), "models": len(asked), "finished": finished})
        return pd.DataFrame(rows).rename(columns={name: f"{name} tokens" for name in ("least", "mean", "most")})


def prepare(
    subjects: Sequence[Subject],
    tokenizer: PreTrainedTokenizerBase,
    options: Bench,
    *,
    lengths: Sequence[int],
    seed: int = 0,
    precision: str = "auto",
) -> Plan:
    """Check what was asked for and make the prompts, before any weights are loaded.

    Args:
        tokenizer: that prompts are sized and counted with; that of the models.
        options: its bench_suites and the other settings of `settings.bench`.
        lengths: of the prompts of RULER and needles, if options name none; each model gets those within its window.

    Raises the errors of `check`, ValueError for a length that is too short for a task, and MissingDataError that names
    the folder of a missing dataset.
    """
    suites = check(options, {subject.name: subject.window for subject in subjects}, lengths, tokenizer=tokenizer)
    from longrecipe.bench.prompts import haystack_of, make_prompts

    data = hub_data(options.bench_data)
    given = {"lengths": tuple(options.bench_lengths or lengths), "data": data, "seed": seed}
    haystack = haystack_of(suites, options, tokenizer, lengths=given["lengths"], data=data)
    prompts = tuple(make_prompts(name, options, tokenizer, haystack=haystack, **given) for name in suites)
    return Plan(tuple(subjects), prompts, tokenizer, options.bench_chat_template, precision)


def check(
    options: Bench, windows: Mapping[str, int], lengths: Sequence[int], *, tokenizer: PreTrainedTokenizerBase
) -> tuple[str, ...]:
    """Check what needs no data. Returns the suites to run.

    windows: of the models, in tokens, by name. lengths, tokenizer: see `prepare`. Raises ValueError for options that
    cannot be, ImportError that names the extra, and NotADirectoryError for a folder of data that is not there.
    """
    suites = to_run(options.bench_suites or ())
    if not suites:
        raise ValueError(f"bench_suites: choose some of {', '.join(SUITES)}.")
    check_packages(suites)
    _check_tasks(options, suites)
    if options.bench_chat_template and not tokenizer.chat_template:
        raise ValueError("bench_chat_template = True: the tokenizer has no chat template; set it to false.")
    hub_data(options.bench_data)
    _check_windows(windows, suites, options.bench_lengths or lengths)
    return suites


def n_tokens(subject: Subject, prompts: "Prompts") -> int:
    """Tokens that a model reads and generates for a suite, at most."""
    return int(prompts.asked(subject.window)[["tokens", "generated"]].to_numpy().sum())


def room_of(subject: Subject, prompts: "Prompts") -> int:
    """The most tokens of a prompt and its answer; the harness cuts the beginning of longer prompts."""
    return subject.window + (_PREFIX_TOKENS if SUITES[prompts.suite].by_length else 0)


def _check_windows(windows: Mapping[str, int], suites: Sequence[str], lengths: Sequence[int]) -> None:
    """Raise ValueError if no model has room for a length, or one has no room for a suite."""
    widest = max(windows, key=windows.__getitem__)
    if any(SUITES[name].by_length for name in suites) and max(lengths) > windows[widest]:
        raise ValueError(
            f"bench_lengths = {list(lengths)}: {max(lengths)} is above the window of {widest} ({windows[widest]} "
            "tokens): leave out the length, or give a model with a longer window."
        )
    for model, window in windows.items():
        for name in suites:
            if (needed := SUITES[name].generated + SUITES[name].typical_tokens // 16) >= window:
                raise ValueError(
                    f"bench_suites: {name} needs a window above {needed} tokens; that of {model} has {window}."
                )


def _check_tasks(options: Bench, suites: Sequence[str]) -> None:
    """Raise ValueError for tasks to leave out that no suite has, or if a suite has no other."""
    without, known = set(options.bench_without or ()), {name: set(SUITES[name].names()) for name in suites}
    if unknown := sorted(without - set().union(*known.values())):
        few = ", ".join(sorted(set().union(*known.values()))[:20])
        raise ValueError(f"bench_without: {unknown[0]!r} is no task of {', '.join(suites)}; there are {few}.")
    for name, tasks in known.items():
        if not tasks - without:
            raise ValueError(f"bench_without: leaves no task of {name}; leave out the suite instead.")
