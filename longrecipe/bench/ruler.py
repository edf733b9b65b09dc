"""Prompts of RULER's 13 tasks (Hsieh et al. 2024, arXiv 2404.06654), made by the generators of lm-evaluation-harness.

The harness draws from Python's global generator, makes 500 prompts of each task and length, and differs from NVIDIA's
code in three places. Here each task and length has a seed of its own, so that adding a task changes no prompt of the
others, only the prompts that are asked are made, and `CORRECTIONS` lists what is corrected.
"""

import importlib
import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.bench.haystack import Haystack, sentence_splitter
from longrecipe.bench.replaced import replaced, silent

CORRECTIONS = {
    "qa": "an answer is right if it contains any of the references, as in NVIDIA's code; the harness gives the share "
    "of references that it contains",
    "cwe": "the prompt begins with the solved example, as in NVIDIA's code; the harness leaves it out",
    "vt": "'assgined' is spelled 'assigned' in the prompt, as in NVIDIA's code since 2025-05-13",
}


@dataclass(frozen=True)
class RulerTask:
    """A task of RULER in the harness.

    Args:
        module: its module in `lm_eval.tasks.ruler`.
        builder: the function there that makes the dataset.
        generator: the module with `generate_input_output`, which makes one prompt of a size.
        generated: tokens that the model generates.
        place: which argument of `generate_input_output` is the size; None if it fills its prompts itself.
        correction: a key of CORRECTIONS.
        essay: whether the prompt is made of running text, the haystack.
    """

    module: str
    builder: str
    generator: str
    generated: int
    place: int | None = 0
    correction: str | None = None
    essay: bool = False


def _niah(name: str, essay: bool) -> RulerTask:
    return RulerTask("niah_utils", name, "prepare_niah", 128, essay=essay)


_ESSAY = ("niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multivalue", "niah_multiquery")
RULER: dict[str, RulerTask] = {
    "niah_single_1": _niah("niah_single_1", essay=False),
    "niah_single_2": _niah("niah_single_2", essay=True),
    "niah_single_3": _niah("niah_single_3", essay=True),
    "niah_multikey_1": _niah("niah_multikey_1", essay=True),
    "niah_multikey_2": _niah("niah_multikey_2", essay=False),
    "niah_multikey_3": _niah("niah_multikey_3", essay=False),
    "niah_multivalue": _niah("niah_multivalue", essay=True),
    "niah_multiquery": _niah("niah_multiquery", essay=True),
    "ruler_vt": RulerTask("vt_utils", "get_vt_dataset", "vt_utils", 30, correction="vt"),
    "ruler_cwe": RulerTask("cwe_utils", "get_cw_dataset", "cwe_utils", 120, correction="cwe"),
    "ruler_fwe": RulerTask("fwe_utils", "fwe_download", "fwe_utils", 50, place=None),
    "ruler_qa_squad": RulerTask("qa_utils", "get_squad", "qa_utils", 32, place=1, correction="qa"),
    "ruler_qa_hotpot": RulerTask("qa_utils", "get_hotpotqa", "qa_utils", 32, place=1, correction="qa"),
}
# Prompts that are shorter than this share of the length measure something else.
_LEAST_SHARE = 0.3
_NAMES = ("niah_utils", "prepare_niah", "vt_utils", "cwe_utils", "fwe_utils", "qa_utils")


class TooShortError(ValueError):
    """A length has no room for a task."""


def ruler_rows(
    task: str,
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    seed: int = 0,
    haystack: Haystack | None = None,
    qa: Any = None,
    fill: bool = False,
) -> list[dict[str, Any]]:
    """The prompts of one task of RULER at one length, as rows of the harness: input, gen_prefix, outputs, max_length.

    The first rows do not depend on `count`.

    Args:
        task: a name of RULER.
        length: in tokens, the generated ones included.
        count: number of prompts; there are at most 500.
        haystack: running text, for the tasks that hide needles in it.
        qa: the content of the JSON file of a question-answering task; None downloads it.
        fill: make prompts as long as fits, by NVIDIA's newer search; else they are up to half shorter, see the module
            of the harness.

    Raises TooShortError if the length has no room for the task.
    """
    known = RULER[task]
    generators = _generators()
    generator, module = generators[known.generator], generators[known.module]
    size = _Size(generator.generate_input_output, known, tokenizer, length, fill=fill)
    with ExitStack() as stack:
        stack.enter_context(_seeded(f"{seed} {task} {length}", generators["cwe_utils"]))
        stack.enter_context(silent())
        changes = {"tqdm": lambda items, **_: size.counted(itertools.islice(items, count))}
        if known.place is not None:
            changes["generate_input_output"] = size.make
        if known.essay:
            changes["cached_sent_tokenize"] = sentence_splitter()[1]
        if task == "ruler_vt":
            changes["sys_vartrack_w_noise_random"] = _with_room(generator, tokenizer)
        stack.enter_context(replaced(generator, **changes))
        own = {"get_tokenizer": lambda _: tokenizer}
        if known.essay:
            own["get_haystack"] = lambda **_: haystack.words
        if qa is not None:
            own["download_json"] = lambda _: qa
        for reader in (generators["qa_utils"].read_squad, generators["qa_utils"].read_hotpotqa):
            # It keeps what it has read, also from another file.
            reader.cache_clear()
        stack.enter_context(replaced(module, **own))
        # The harness fills the prompts of fwe without the tokens that are generated.
        room = length - known.generated if fill and known.place is None else length
        try:
            rows = list(getattr(module, known.builder)(max_seq_lengths=[room], tokenizer="this")["test"])
        except ValueError:
            # Of the harness, or of a task that cannot use the texts that an ended search gives it.
            rows = []
    if size.too_short or not rows:
        how = "or leave out the task" if fill else "leave out the task, or set bench_fill to true (--fill)"
        raise TooShortError(f"a length of {length} tokens is too short for {task}: give a longer one, {how}.")
    rows = [_corrected(row, known.correction) | {"max_length": length} for row in rows]
    if not fill and (tokens := size.tokens(rows[0]["input"])) < _LEAST_SHARE * length:
        raise ValueError(
            f"{task} at {length} tokens: the harness makes a prompt of only {tokens} tokens, because its steps are too "
            "large for this length and tokenizer: set bench_fill to true (--fill), or give a longer length."
        )
    return rows


def _corrected(row: dict[str, Any], correction: str | None) -> dict[str, Any]:
    if correction == "cwe":
        return row | {"input": f"{row['input_example']}\n{row['input']}"}
    if correction == "vt":
        return row | {name: row[name].replace("assgined", "assigned") for name in ("input", "gen_prefix")}
    return row


def score(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """The share of references that an answer contains, from 0 to 1; letter case does not count.

    Control characters count as line ends (RULER's `postprocess_pred` and `string_match_all`).
    """
    found = _contained(row, answers)
    return {"score": sum(found) / len(found)}


def score_any(row: dict[str, Any], answers: list[str]) -> dict[str, float]:
    """1 if an answer contains one of the references, else 0: NVIDIA's `string_match_part`, for questions."""
    return {"score": float(any(_contained(row, answers)))}


def _contained(row: dict[str, Any], answers: list[str]) -> list[bool]:
    said = re.sub(r"[\x00-\x1f]", "\n", answers[0].strip()).strip().lower()
    return [reference.lower() in said for reference in row["outputs"]]


class _Size:
    """Wraps a generator's `generate_input_output`, whose size argument decides the length of a prompt.

    The harness searches a size first, then makes its samples in a loop over `tqdm`; if a prompt does not fit, it tries
    a smaller size, some tasks without end. Here such a search ends, and with `fill` the size is the largest that fits.
    """

    def __init__(self, make: Callable, task: RulerTask, tokenizer: PreTrainedTokenizerBase, length: int, *, fill: bool):
        self._make, self._task, self._tokenizer, self._length, self._fill = make, task, tokenizer, length, fill
        self._largest, self._too_long, self._example, self._last = 0, 0, 0, None
        self._sampling = self.too_short = False

    def counted(self, items: Iterable) -> Iterator:
        """The loop of samples."""
        if self._example + self._task.generated >= self._length:
            # Inside the loop, some tasks catch every error and try again.
            raise TooShortError(self._length)
        self._sampling = True
        for item in items:
            self._last = None
            yield item
        self._sampling = False

    def make(self, *given: Any, **named: Any) -> tuple:
        """`generate_input_output` with a size that fits."""
        place, is_example = self._task.place, named.get("is_icl", False)
        if is_example:
            made = self._make(*given, **named)
            self._example = self.tokens(" ".join([made[0], *made[1]]))
            return made

        def of(size: int) -> tuple:
            return self._make(*given[:place], size, *given[place + 1 :], **named)

        if not self._sampling:
            if not self._fill:
                return of(given[place])
            if not self._largest:
                self._search(of, given[place])
            return of(self._too_long)
        size = given[place]
        if self._fill:
            size = self._largest
            while size > 1 and not self._fits(made := of(size)):
                size -= max(1, size // 64)
            return made
        if size == self._last or size <= 0:
            # The loop would try this size again and again: it gets a prompt that fits, and the caller an error.
            self.too_short = True
            return tuple([] if isinstance(part, list) else "-" for part in of(1))
        self._last = size
        return of(size)

    def _search(self, of: Callable[[int], tuple], start: int) -> None:
        """Find the largest size whose prompt fits, by doubling and bisection."""
        low, high, before = 0, max(1, start), -1
        while self._fits(made := of(high)) and (now := self.tokens(_text(made))) > before:
            low, high, before = high, 2 * high, now
        self._too_long = high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._fits(of(middle)) else (low, middle)
        self._largest = low

    def _fits(self, made: tuple) -> bool:
        own = self.tokens(_text(made)) + self.tokens(_prefix(made, self._task)) + self._example
        return own + self._task.generated <= self._length

    def tokens(self, text: str) -> int:
        """The tokens of a text."""
        return len(self._tokenizer(text, verbose=False)["input_ids"])


def _text(made: tuple) -> str:
    """The prompt that `generate_input_output` returns: with the solved example before it if there is one."""
    return "\n".join(itertools.takewhile(lambda part: isinstance(part, str), made[:2]))


def _prefix(made: tuple, task: RulerTask) -> str:
    """The longest words that the harness adds behind a prompt, if they are not a part of it yet."""
    if task.module == "niah_utils":
        return f" The special magic uuids for {made[2]} mentioned in the provided text are"
    return " Answer:" if task.module == "qa_utils" else " "


def _with_room(vt: ModuleType, tokenizer: PreTrainedTokenizerBase) -> Callable:
    """Variable tracking whose solved example fits: the harness gives it 500 tokens, and with a small vocabulary, which
    needs more, it would search without end."""
    sample, example = vt.sys_vartrack_w_noise_random, vt.generate_input_output(5, 1, 4, is_icl=True)
    room = max(500, int(1.2 * len(tokenizer(example[0], verbose=False)["input_ids"])) + 30)

    def make(**given: Any) -> list[dict]:
        return sample(**given | ({"max_seq_length": room} if given["num_samples"] == 1 else {}))

    return make


@contextmanager
def _seeded(seed: str, cwe: ModuleType) -> Iterator[None]:
    """Seed the generators that RULER draws from, and give Python's and NumPy's their states back at the end."""
    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(random.getrandbits(32))
    cwe.RNG.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


def _generators() -> dict[str, ModuleType]:
    """The harness's modules that make prompts. Their import would try to download data of nltk."""
    import nltk

    sentence_splitter()
    with silent(), replaced(nltk, download=lambda *_, **__: False):
        return {name: importlib.import_module(f"lm_eval.tasks.ruler.{name}") for name in _NAMES}
