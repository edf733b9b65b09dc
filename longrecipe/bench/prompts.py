"""The prompts of a suite: made once, so that all models are asked the same, and counted."""

import hashlib
from collections.abc import Mapping, Sequence
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
from longrecipe.bench.ruler import CORRECTIONS, RULER, ruler_rows
from longrecipe.bench.suites import SUITES
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

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return int(self.table["tokens"].max())

    def chosen(self, window: int) -> dict[str, list[int]]:
        """The numbers of the prompts that a model with this window is asked, by task: those of its lengths."""
        rows = self.table[self.table["length"] <= window]
        return {str(task): each["prompt"].tolist() for task, each in rows.groupby("task", sort=False)}


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
        given = {"count": options.bench_limit or 500, "seed": seed, "fill": options.bench_fill}
        by = _makers(tokenizer)
        for name in names:
            made = [_made_once(name, n, tokenizer, data=data, haystack=haystack, by=by, **given) for n in lengths]
            rows[name] = [row for each in made for row in each]
        found = {RULER[name].correction for name in names}
        about["corrections"] = {name: text for name, text in CORRECTIONS.items() if name in found}
        about["filled"] = options.bench_fill
        if haystack is not None:
            splitter, _ = sentence_splitter()
            about |= {"haystack": haystack.name, "haystack_sha256": haystack.sha256, "sentences": splitter}
    tasks = load_tasks(suite, names, data, rows)
    asked, digest = [], hashlib.sha256(repr(sorted(about.items())).encode())
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
    if not any(RULER[name].essay for name in asked):
        return None
    haystack = read_haystack(options.bench_haystack, data)
    haystack.check(tokenizer, max(lengths))
    return haystack


def _asked(suite: str, options: Bench) -> list[str]:
    """The tasks of a suite that are not left out."""
    return [name for name in SUITES[suite].names() if name not in (options.bench_without or ())]


def _made_once(
    task: str,
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    data: HubData,
    haystack: Haystack | None,
    by: str,
    **given: Any,
) -> list[dict[str, Any]]:
    """`ruler_rows`, from the cache if they have been made before: at 131,072 tokens a prompt takes seconds.

    by: see `_makers`.
    """
    questions = _questions(task, data)
    text = RULER[task].essay and haystack and (haystack.sha256, sentence_splitter()[0])
    made_of = [task, length, given, by, questions, text]
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:16]
    file = cache_dir() / "bench" / "prompts" / f"{task}-{length}-{key}.json"
    if not file.is_file():
        try:
            rows = ruler_rows(task, length, tokenizer, haystack=haystack, qa=questions, **given)
        except RequestException as error:
            name, url = QA_FILES[task]
            raise missing_file(f"ruler/{name}", url, data, error) from error
        write_json(file, {"rows": rows})
    return read_json(file, "delete it")["rows"]


def _makers(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what prompts are made by: the tokenizer and the code."""
    vocabulary = sorted(tokenizer.get_vocab().items())
    parts = type(tokenizer).__name__, vocabulary, version("lm_eval"), code_hash("longrecipe.bench.ruler:ruler_rows")
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _questions(task: str, data: HubData) -> Any:
    """The content of the JSON file of a task on questions, from the folder of the data; None downloads it."""
    if task not in QA_FILES:
        return None
    path = data.file(QA_FILES[task][0])
    return None if path is None else read_json(path)
