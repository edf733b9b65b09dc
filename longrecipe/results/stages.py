"""One run, stage by stage: its table, what training adds to the RoPE rule, and the claims it is judged by."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from longrecipe.evaluate import NIAH_M, Report, interval, paired
from longrecipe.settings import Params

MEASURES = {"passkey": ("passkey",), "recall": ("multi-key",), "NIAH(M)": NIAH_M}


def stage_table(numbers: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a stage from `Report.numbers()`: recall by length, NIAH(M) at the ends, general scores."""
    rows = {}
    for stage, measured in numbers.items():
        row = {f"recall @{length}": values["mean"] for length, values in measured["recall"].items()}
        ends = dict.fromkeys((min(measured["niah_m"]), max(measured["niah_m"])))
        row |= {f"NIAH(M) @{length}": measured["niah_m"][length]["mean"] for length in ends}
        rows[stage] = row | {"perplexity": measured["perplexity"], "copying": measured["copying"]}
    return pd.DataFrame(rows).T.rename_axis("stage")


def gain(one: Report, other: Report) -> pd.DataFrame:
    """How much better one model reads than another, by measure and text length: the mean difference over the documents
    that both read, its 95 % bootstrap interval, and the number of documents.

    There is no interval (NaN) for fewer than 5 documents, or if all have the same difference, which says nothing about
    further documents.
    """
    prompts, rows = paired(one, other), []
    for measure, tasks in MEASURES.items():
        for length, each in prompts[prompts["task"].isin(tasks)].groupby("length"):
            mean, low, high = interval(each, np.random.default_rng(0))
            count = each["document"].nunique()
            if count < 5 or low == high:
                low, high = np.nan, np.nan
            rows.append((measure, length, mean, low, high, count))
    columns = ["measure", "length", "gain", "low", "high", "documents"]
    return pd.DataFrame(rows, columns=columns).set_index(["measure", "length"])


def verdict(numbers: Mapping[str, Mapping], params: Params) -> dict[str, bool]:
    """The claims that a run is judged by, from the stages' `Report.numbers()`: for each, whether it holds.

    The thresholds are this kit's own: the base cannot read T tokens, the trained model can, and it keeps the base's
    skills. At scale mini, recall of one of several facts is judged; at other scales passkeys if they were asked, at
    every length beyond the window. There are no claims about stages that were not measured.
    """
    return (_of_mini if params.scale == "mini" else _of_real)(numbers, params)


def _of_mini(numbers: Mapping[str, Mapping], params: Params) -> dict[str, bool]:
    def recall(stage: str, length: int) -> float:
        return numbers[stage]["recall"][length]["mean"]

    window, target = params.window, params.target_length
    checks = {}
    if "base" in numbers:
        checks[f"base: recall at {target} tokens is 0.05 or less"] = recall("base", target) <= 0.05
    untrained = numbers.keys() & {"RoPE rule alone"}
    for stage in [stage for stage in ("extended", "merged") if stage in numbers] or untrained:
        checks[f"{stage}: recall at {target} tokens is 0.75 or more"] = recall(stage, target) >= 0.75
    if {"merged", "base"} <= numbers.keys():
        final, base = numbers["merged"], numbers["base"]
        checks |= {
            f"merged: recall at {window} tokens is the base's minus 0.02 or more": (
                recall("merged", window) >= recall("base", window) - 0.02
            ),
            f"merged: perplexity at {window} tokens is 1.05 times the base's or less": (
                final["perplexity"] <= 1.05 * base["perplexity"]
            ),
        }
    return checks


def _of_real(numbers: Mapping[str, Mapping], params: Params) -> dict[str, bool]:
    name = "passkey" if params.eval_passkeys else "recall"
    (task,) = MEASURES[name]
    beyond = [n for n in params.measured_lengths if n > params.window]
    where = f"{name} at {' and '.join(map(str, beyond))} tokens"
    if params.eval_passkeys and numbers:
        asked = min(each["tasks"][n][task]["prompts"] for each in numbers.values() for n in beyond)
        where += f" ({asked} trials or more each)"

    def scores(stage: str) -> list[float]:
        return [numbers[stage]["tasks"][n][task]["mean"] for n in beyond]

    checks = {}
    if "base" in numbers:
        checks[f"base: {where} is 0.25 or less"] = max(scores("base")) <= 0.25
    trained = "merged" if "merged" in numbers else "RoPE rule alone"
    if trained in numbers:
        checks[f"{trained}: {where} is 0.75 or more"] = min(scores(trained)) >= 0.75
    if {"merged", "base"} <= numbers.keys():
        claim = f"merged: perplexity at {params.measured_lengths[0]} tokens is 1.03 times the base's or less"
        checks[claim] = numbers["merged"]["perplexity"] <= 1.03 * numbers["base"]["perplexity"]
    return checks
