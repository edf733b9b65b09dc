"""What is asked of lm-evaluation-harness: load the tasks of a suite, and score a model on them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import evaluate
import torch
from datasets import Dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from lm_eval import simple_evaluate
from lm_eval.api import model as harness_model
from lm_eval.api import task as harness_task
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.bench import needles
from longrecipe.bench.duration import BATCH_TOKENS
from longrecipe.bench.hub import HubData, MissingDataError, missing, missing_file
from longrecipe.bench.replaced import replaced, silent
from longrecipe.bench.ruler import RULER, score, score_any
from longrecipe.bench.suites import SUITES, tasks_folder
from longrecipe.evaluate.reader import BATCH_TOKENS as READ_TOKENS
from longrecipe.evaluate.reader import cache_name, read_apart

# For `simple_evaluate` with tasks that are loaded: without it, the harness reads all its files, which takes a minute.
_NO_TASKS = TaskManager(include_defaults=False)
_METRIC = {"metric": "score", "aggregation": "mean", "higher_is_better": True}
# A task on rows that are given, like those of RULER in the harness.
_OWN = {
    "output_type": "generate_until",
    "dataset_path": "",
    "test_split": "test",
    "doc_to_text": "{{input}}",
    "doc_to_target": "{{outputs}}",
    "gen_prefix": "{{gen_prefix}}",
    "process_results": needles.score,
    "metric_list": [_METRIC],
}


def load_tasks(
    suite: str,
    tasks: Sequence[str],
    data: HubData,
    rows: Mapping[str, list[dict[str, Any]]] | None = None,
    *,
    as_is: bool = False,
) -> dict[str, Task]:
    """The tasks of a suite with their data, by name.

    rows: the prompts of tasks whose length is chosen, by task. as_is: with the harness's own scores for RULER, not
    corrected.
    Raises MissingDataError that names the folder of a missing dataset.
    """
    if SUITES[suite].runs_code:
        # The metric refuses to run code without it; the setting bench_allow_code has been checked before.
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"
    with quiet(), _local_metric(data):
        if not SUITES[suite].folder:
            return {task: _own(task, rows[task]) for task in tasks}
        manager = TaskManager(include_defaults=False, include_path=[str(tasks_folder() / SUITES[suite].folder)])
        shots, rows = SUITES[suite].shots, rows or {}
        return {task: _load(manager, task, data, shots=shots, rows=rows.get(task), as_is=as_is) for task in tasks}


def _own(task: str, rows: list[dict[str, Any]]) -> Task:
    generated = {"do_sample": False, "until": [], "max_gen_toks": rows[0]["generated"]}
    made = {"custom_dataset": lambda **_: {"test": Dataset.from_list(rows)}, "generation_kwargs": generated}
    return ConfigurableTask(config={"task": task} | _OWN | made)


def _load(
    manager: TaskManager, task: str, data: HubData, *, shots: int, rows: list[dict[str, Any]] | None, as_is: bool
) -> Task:
    config = manager.task_index[task].cfg
    changes: dict[str, Any] = {"task": task} | ({"num_fewshot": shots} if shots else {})
    if rows is None:
        dataset = config["dataset_path"]
        options = (config.get("dataset_kwargs") or {}) | data.options(dataset)
        changes |= {"dataset_path": data.source(dataset), "dataset_kwargs": options}
    else:
        made = {"test": Dataset.from_list(rows)}
        how = score_any if RULER[task].correction == "qa" else score
        changes |= {"custom_dataset": lambda **_: made}
        changes |= {} if as_is else {"process_results": how, "metric_list": [_METRIC]}
    try:
        return manager.load([{"group": "longrecipe", "task": [changes]}])["tasks"][task]
    except (OSError, ValueError, KeyError, DatasetsError, HfHubHTTPError) as error:
        if rows is not None or isinstance(error, MissingDataError):
            raise
        raise missing(config["dataset_path"], config.get("dataset_name"), data, error) from error


def requests_of(
    task: Task, tokenizer: PreTrainedTokenizerBase, *, limit: int | None, chat_template: bool
) -> list[tuple[int, Instance]]:
    """What a task asks of a model, with the number of the prompt that each request belongs to."""

    def templated(messages: list[dict], add_generation_prompt: bool = True) -> str:
        own = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return tokenizer.apply_chat_template(messages, tokenize=False, **own)

    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
    with quiet():
        task.build_all_requests(
            limit=limit,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            chat_template=templated if chat_template else None,
        )
    return [(request.doc_id, request) for request in task.instances]


class Model(HFLM):
    """A model as the harness asks it.

    Args:
        max_length: of a prompt with its answer; the harness cuts the beginning of longer ones.
        longest: tokens of the longest prompt, which decide how many are read at a time.
        advance: called with the tokens that were read and generated.
    """

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        longest: int,
        advance: Callable[[int], object],
    ):
        with quiet():
            super().__init__(pretrained=network, tokenizer=tokenizer, max_length=max_length, batch_size=1)
        self._longest, self._advance = longest, advance

    def generate_until(self, requests: list, disable_tqdm: bool = True) -> list[str]:
        """Generate, without a progress bar of the harness."""
        self.batch_size_per_gpu = max(1, BATCH_TOKENS[self.device.type] // (self._longest + self.max_gen_toks))
        return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood(self, requests: list, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Score answers, without a progress bar of the harness."""
        self.batch_size_per_gpu = max(1, READ_TOKENS // self._longest)
        return super().loglikelihood(requests, disable_tqdm=True)

    def _model_call(self, inps: torch.Tensor, *given: Any, **named: Any) -> torch.Tensor:
        logits = super()._model_call(inps, *given, **named)
        self._advance(inps.numel())
        return logits

    def _model_generate(
        self, context: torch.Tensor, max_length: int, *given: Any, attention_mask: torch.Tensor, **named: Any
    ) -> torch.Tensor:
        with torch.no_grad():
            cache = read_apart(self.model, context, attention_mask, max_length, advance=self._advance)
        if cache is not None:
            named[cache_name(self.model)] = cache
        # With a cache of fixed size, transformers compiles the model on a GPU, again for each length.
        named |= {"attention_mask": attention_mask, "disable_compile": True}
        ids = super()._model_generate(context, max_length, *given, **named)
        self._advance(ids.numel() - (0 if cache is None else context.numel()))
        return ids


def score_tasks(
    model: HFLM,
    tasks: Mapping[str, Task],
    *,
    chosen: Mapping[str, list[int]],
    chat_template: bool = False,
    responses: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Ask a model the prompts of tasks. Returns the harness's record of each prompt, by task.

    Args:
        chosen: numbers of the prompts of each task.
        responses: a file that keeps each answer, so that an interrupted call resumes; its folder must be there.
    """
    with quiet():
        found = simple_evaluate(
            model=model,
            tasks=[tasks[name] for name in chosen],
            task_manager=_NO_TASKS,
            samples=dict(chosen),
            use_cache=responses and str(responses),
            bootstrap_iters=0,
            apply_chat_template=chat_template,
            fewshot_as_multiturn=chat_template,
            confirm_run_unsafe_code=True,
        )
    return found["samples"]


@contextmanager
def quiet() -> Iterator[None]:
    """Without the harness's messages and progress bars, and those of datasets."""
    hidden, bar = datasets.are_progress_bars_disabled(), {"tqdm": lambda items, **_: items}
    datasets.disable_progress_bars()
    try:
        with silent(), replaced(harness_task, **bar), replaced(harness_model, **bar):
            yield
    finally:
        if not hidden:
            datasets.enable_progress_bars()


@contextmanager
def _local_metric(data: HubData) -> Iterator[None]:
    """`evaluate.load` reads the metric code_eval from the folder of the data if it is there."""
    original, here = evaluate.load, data.folder and data.folder / "code_eval"

    def load(name: str, *given: Any, **named: Any) -> evaluate.EvaluationModule:
        is_ours = name == "code_eval" and here and here.is_dir()
        try:
            return original(str(here) if is_ours else name, *given, **named)
        except (OSError, HfHubHTTPError) as error:
            address = f"https://huggingface.co/spaces/evaluate-metric/{name}"
            raise missing_file(f"{name}/{name}.py", address, data, error) from error

    with replaced(evaluate, load=load):
        yield
