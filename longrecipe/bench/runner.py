"""Score models on suites of standard benchmarks: ask each model, keep the answers, and write one result per suite."""

import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from longrecipe.bench.plan import Plan, Subject, n_tokens, room_of
from longrecipe.bench.scores import COLUMNS
from longrecipe.bench.suites import SUITES
from longrecipe.evaluate import to_read
from longrecipe.system.files import locked, read_json, write_json
from longrecipe.system.paths import cache_dir

if TYPE_CHECKING:
    from longrecipe.bench.prompts import Prompts


@dataclass(frozen=True)
class Result:
    """What a model scores on a suite. rows: see `scores.COLUMNS`. about: what the prompts depend on, versions, and
    seconds."""

    subject: str
    suite: str
    rows: pd.DataFrame
    about: Mapping[str, Any]


def run(plan: Plan, *, force: bool = False) -> list[Result]:
    """Ask all models what they have not been asked yet, and return all results, finished ones too.

    An interrupted run resumes: each answer is kept until its suite has finished. force: ask everything again.
    """
    left = plan.pairs if force else plan.left()
    total = sum(n_tokens(*pair) for pair in left)
    with tqdm(total=total, unit="token", unit_scale=True, disable=not left) as bar:
        for subject in dict.fromkeys(subject for subject, _ in left):
            with locked(cache_dir() / "bench" / subject.identity, "runs benchmarks", wait=False):
                network = to_read(subject.load(), plan.precision)
                for prompts in (prompts for each, prompts in left if each is subject):
                    bar.set_description_str(f"{prompts.suite} of {subject.name}")
                    end = bar.n + n_tokens(subject, prompts)
                    _ask(plan, subject, prompts, network=network, bar=bar)
                    # Answers end early, and the harness reads a question once for all choices.
                    bar.update(end - bar.n)
                del network
    return [_read(subject, plan.path(subject, prompts)) for subject, prompts in plan.pairs]


def _ask(plan: Plan, subject: Subject, prompts: "Prompts", *, network: PreTrainedModel, bar: tqdm) -> None:
    """Ask a model the prompts of a suite, and write the result."""
    from longrecipe.bench.harness import Model, score_tasks

    path, room = plan.path(subject, prompts), room_of(subject, prompts)
    answers = path.with_suffix(".answers")
    longest = prompts.longest(subject.window)
    model = Model(network, plan.tokenizer, max_length=room, longest=longest, advance=bar.update)
    chosen = prompts.chosen(subject.window)
    with _seconds(answers / "seconds") as seconds:
        samples = score_tasks(
            model, prompts.tasks, chosen=chosen, chat_template=plan.chat_template, responses=answers / "answers"
        )
    about = dict(prompts.about) | {
        "seconds": round(seconds(), 1),
        "window": subject.window,
        "chat_template": plan.chat_template,
        "device": str(network.device.type),
        "dtype": str(network.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("lm_eval", "transformers", "torch", "datasets")},
    }
    rows = list(_rows(prompts, samples, room))
    write_json(path, {"subject": subject.name, "suite": prompts.suite, "about": about, "rows": rows})
    shutil.rmtree(answers, ignore_errors=True)


@contextmanager
def _seconds(file: Path) -> Iterator:
    """Measure the seconds of some work, with those of interrupted calls, which a file keeps."""
    file.parent.mkdir(parents=True, exist_ok=True)
    start, before = time.perf_counter(), float(file.read_text(encoding="utf-8")) if file.is_file() else 0.0

    def spent() -> float:
        return before + time.perf_counter() - start

    try:
        yield spent
    finally:
        file.write_text(str(spent()), encoding="utf-8")


def _rows(prompts: "Prompts", samples: Mapping[str, list[dict[str, Any]]], room: int) -> Iterator[list[Any]]:
    """The rows of a result: `scores.COLUMNS`, and the answer as the model gave it."""
    asked = prompts.table.set_index(["task", "prompt"])
    metric = SUITES[prompts.suite].metric
    for task, records in samples.items():
        for record in records:
            number = record["doc_id"]
            length, tokens, generated = asked.loc[(task, number)].tolist()
            answer = record["resps"][0][0] if generated else ""
            score, cut = float(record[metric]), tokens + generated > room
            yield [prompts.suite, task, length, record["filter"], number, score, tokens, cut, answer]


def _read(subject: Subject, path: Path) -> Result:
    record = read_json(path, "delete it, and run the benchmark again")
    rows = pd.DataFrame(record["rows"], columns=[*COLUMNS, "answer"])
    return Result(subject.name, record["suite"], rows, record["about"])
