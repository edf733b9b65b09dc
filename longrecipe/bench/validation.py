"""Validate this kit's layer: lm-evaluation-harness alone and this kit, on equal prompts, must give equal scores."""

from collections.abc import Mapping

import pandas as pd
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel

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
    prompts, harness, longrecipe, differ (prompts whose scores differ) and correction (of the score, if there is one).
    Own needles are left out: the harness does not have them. Raises ValueError if nothing is left.
    """
    subject = plan.subjects[0]
    asked = [prompts for each, prompts in plan.pairs if each is subject and SUITES[prompts.suite].folder]
    if not asked:
        raise ValueError("nothing to compare: give a suite of the harness and lengths within the first model's window.")
    network = to_read(subject.load(), plan.precision)
    return pd.concat([_both(network, plan, prompts, subject.window) for prompts in asked], ignore_index=True)


def _both(network: PreTrainedModel, plan: Plan, prompts: Prompts, window: int) -> pd.DataFrame:
    alone, tokenizer = prompts.tasks, plan.tokenizer
    if SUITES[prompts.suite].by_length:
        rows = {name: list(task.dataset["test"]) for name, task in alone.items()}
        alone = load_tasks(prompts.suite, list(rows), HubData(), rows, as_is=True)
    longest = prompts.longest(window)
    room = longest + int(prompts.asked(window)["generated"].max()) + 1
    given = {"chosen": prompts.chosen(window), "chat_template": plan.chat_template}
    theirs = score_tasks(HFLM(pretrained=network, tokenizer=tokenizer, max_length=room, batch_size=1), alone, **given)
    model = Model(network, tokenizer, max_length=room, longest=longest, advance=lambda _: None)
    ours = score_tasks(model, prompts.tasks, **given)
    rows, metric = [], SUITES[prompts.suite].metric
    for name in alone:
        # The other corrections change prompts, and both get the same.
        correction = CORRECTIONS["qa"] if name in RULER and RULER[name].correction == "qa" else ""
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
