"""The prompts of a suite: made once, so that all models are asked the same, and counted."""

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pandas as pd
from lm_eval.api.task import Task
from requests import RequestException
from transformers import PreTrainedTokenizerBase

from longrecipe.bench.harness import load_tasks, requests_of
from longrecipe.bench.haystack import Haystack, read_haystack, sentence_splitter
from longrecipe.bench.hub import QA_FILES, HubData, missing_file
from longrecipe.bench.needles import NEEDLES, needle_rows
from longrecipe.bench.ruler import CORRECTIONS, RULER, ruler_rows
from longrecipe.bench.suites import MOST, SUITES
from longrecipe.settings.bench import Bench
from longrecipe.system.codehash import code_hash
from longrecipe.system.files import read_json, write_json
from longrecipe.system.paths import cache_dir


@dataclass(frozen=True)
class Prompts:
    """The prompts of a suite.

    tasks: of the harness, by name. table: task, length (0 if it is not chosen), prompt (its number in the task), tokens
    of the text, generated (most tokens of the answer). about: what they depend on, for the record.
    """

    suite: str
    tasks: Mapping[str, Task]
    table: pd.DataFrame
    about: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Ten characters that stand for the texts and for how they are scored."""
        return self.about["prompts"][:10]

    def asked(self, window: int) -> pd.DataFrame:
        """The rows of the prompts that a model with this window is asked: those of its lengths."""
        return self.table[self.table["length"] <= window]

    def longest(self, window: int) -> int:
        """Tokens of the longest of these prompts."""
        return int(self.asked(window)["tokens"].max())

    def chosen(self, window: int) -> dict[str, list[int]]:
        """The numbers of these prompts, by task."""
        rows = self.asked(window).groupby("task", sort=False)
        return {str(task): each["prompt"].tolist() for task, each in rows}


def make_prompts(
    suite: str,
    options: Bench,
    tokenizer: PreTrainedTokenizerBase,
    *,
    lengths: Sequence[int],
    data: HubData,
    haystack: Haystack | None,
    seed: int,
) -> Prompts:
    """The prompts of a suite. Raises ValueError for a length that is too short or a haystack that is, and
    MissingDataError that names the folder of a missing dataset."""
    known = SUITES[suite]
    names = _asked(suite, options)
    rows, about = {}, {"shots": known.shots, "limit": options.bench_limit, "seed": seed}
    if known.by_length:
        given = {"count": min(options.bench_limit or MOST, MOST), "seed": seed}
        given |= {"fill": options.bench_fill} if known.folder else {}
        by = {"data": data, "haystack": haystack}
        by["made_by"] = _made_by(tokenizer, ruler_rows if known.folder else needle_rows)
        for name in names:
            rows[name] = [row for n in lengths for row in _made_once(name, n, tokenizer, **by, **given)]
        if known.folder:
            found = {RULER[name].correction for name in names}
            about["corrections"] = {name: text for name, text in CORRECTIONS.items() if name in found}
            about["filled"] = options.bench_fill
        if haystack is not None:
            about |= {"haystack": haystack.name, "haystack_sha256": haystack.sha256}
            about |= {"sentences": sentence_splitter()[0]} if known.folder else {}
    tasks = load_tasks(suite, names, data, rows)
    # Its code has the scores of prompts that this kit corrects or makes.
    scored_by = version("lm_eval"), code_hash("longrecipe.bench.harness:load_tasks")
    asked, digest = [], hashlib.sha256(repr((sorted(about.items()), scored_by)).encode())
    for name, task in tasks.items():
        limit = None if known.by_length else options.bench_limit
        for number, request in requests_of(task, tokenizer, limit=limit, chat_template=options.bench_chat_template):
            text, *rest = request.args
            digest.update(repr((name, request.args)).encode())
            length = request.doc["max_length"] if known.by_length else 0
            generated = rest[0].get("max_gen_toks", 256) if isinstance(rest[0], dict) else 0
            asked.append((name, length, number, len(tokenizer(text, verbose=False)["input_ids"]), generated))
    table = pd.DataFrame(asked, columns=["task", "length", "prompt", "tokens", "generated"])
    # The choices of a question are requests of one prompt.
    table = table.drop_duplicates(["task", "prompt"], ignore_index=True)
    return Prompts(suite, tasks, table, about | {"prompts": digest.hexdigest()})


def haystack_of(
    suites: Sequence[str], options: Bench, tokenizer: PreTrainedTokenizerBase, *, lengths: Sequence[int], data: HubData
) -> Haystack | None:
    """The running text that the tasks of these suites need, if any. Raises ValueError if it is shorter than a length,
    and the errors of `read_haystack`."""
    asked = {name for suite in suites if SUITES[suite].by_length for name in _asked(suite, options)}
    if not any(_hides_in_text(name) for name in asked):
        return None
    haystack = read_haystack(options.bench_haystack, data)
    haystack.check(tokenizer, max(lengths))
    return haystack


def _asked(suite: str, options: Bench) -> list[str]:
    """The tasks of a suite that are not left out."""
    return [name for name in SUITES[suite].names() if name not in (options.bench_without or ())]


def _hides_in_text(task: str) -> bool:
    return task in NEEDLES or RULER[task].essay


def _made_once(
    task: str,
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data: HubData,
    haystack: Haystack | None,
    made_by: str,
    **given: Any,
) -> list[dict[str, Any]]:
    """`ruler_rows` or `needle_rows`, from the cache if they have been made before: at 131,072 tokens a prompt takes
    seconds.

    made_by: a hash of the tokenizer and of the code that makes the prompts.
    """
    own, questions = task in NEEDLES, _questions(task, data)
    text = _hides_in_text(task) and haystack and (haystack.sha256, "" if own else sentence_splitter()[0])
    made_of = [task, length, given, made_by, questions, text]
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    file = cache_dir() / "bench" / "prompts" / f"{task}-{length}-{key}.json"
    if not file.is_file():
        try:
            make = needle_rows if own else functools.partial(ruler_rows, qa=questions)
            rows = make(task, length, tokenizer, haystack=haystack, **given)
        except RequestException as error:
            name, url = QA_FILES[task]
            raise missing_file(f"ruler/{name}", url, data, error) from error
        write_json(file, {"rows": rows})
    return read_json(file, "delete it")["rows"]


def _made_by(tokenizer: PreTrainedTokenizerBase, make: Callable) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items())
    code = code_hash(f"{make.__module__}:{make.__name__}")
    parts = type(tokenizer).__name__, vocabulary, version("lm_eval"), code
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _questions(task: str, data: HubData) -> Any:
    """The content of the JSON file of a question-answering task, from the folder of the data; None downloads it."""
    if task not in QA_FILES:
        return None
    path = data.file(QA_FILES[task][0])
    return None if path is None else read_json(path)
