"""Validate this kit's layer: lm-evaluation-harness alone and this kit, on equal prompts, must give equal scores."""

from collections.abc import Mapping

import pandas as pd
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe.bench.harness import Model, load_tasks, score_tasks
from longrecipe.bench.hub import HubData
from longrecipe.bench.plan import Plan
from longrecipe.bench.prompts import Prompts
from longrecipe.bench.ruler import CORRECTIONS, RULER
from longrecipe.bench.suites import SUITES
from longrecipe.evaluate import to_read


def validate(plan: Plan) -> pd.DataFrame:
    """Score the first model of a plan twice, by the harness alone and by this kit, in percent.

    The harness asks one prompt at a time, with its own model class, task settings and scores. A row for each task:
    prompts, harness, longrecipe, differ (prompts whose scores differ) and correction (the one that may explain it).
    """
    network = to_read(plan.subjects[0].load(), plan.precision)
    return pd.concat([_both(network, plan.tokenizer, each) for each in plan.prompts], ignore_index=True)


def _both(network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Prompts) -> pd.DataFrame:
    alone = prompts.tasks
    if SUITES[prompts.suite].by_length:
        rows = {name: list(task.dataset["test"]) for name, task in alone.items()}
        alone = load_tasks(prompts.suite, list(rows), HubData(), rows, as_is=True)
    chosen = prompts.chosen(int(prompts.table["length"].max()))
    longest = prompts.longest
    room = longest + int(prompts.table["generated"].max()) + 1
    theirs = score_tasks(
        HFLM(pretrained=network, tokenizer=tokenizer, max_length=room, batch_size=1), alone, chosen=chosen
    )
    model = Model(network, tokenizer, max_length=room, longest=longest, advance=lambda _: None)
    ours = score_tasks(model, prompts.tasks, chosen=chosen)
    rows, metric = [], SUITES[prompts.suite].metric
    for name in alone:
        correction = CORRECTIONS.get(RULER[name].correction or "", "") if name in RULER else ""
        scores = [
            [record[_metric(record, metric)] for record in sorted(found[name], key=_order)] for found in (theirs, ours)
        ]
        differ = sum(one != other for one, other in zip(*scores, strict=True))
        means = [100 * sum(each) / len(each) for each in scores]
        rows.append((name, len(scores[0]), *means, differ, correction))
    return pd.DataFrame(rows, columns=["task", "prompts", "harness", "longrecipe", "differ", "correction"])


def _metric(record: Mapping, metric: str) -> str:
    """The harness names RULER's scores by length."""
    return metric if metric in record else str(record["doc"]["max_length"])


def _order(record: Mapping) -> tuple:
    return record["doc_id"], record["filter"]
