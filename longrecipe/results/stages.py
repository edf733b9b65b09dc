"""One run, stage by stage: its tables, what training adds to the RoPE rule, and the claims it is judged by."""

from collections.abc import Iterator, Mapping

import pandas as pd

from longrecipe.claims import Claim, Claims, at_least, difference, judge, number
from longrecipe.claims import interval as interval_text
from longrecipe.evaluate import NIAH_M, Report, document_scores, over_documents, paired
from longrecipe.results.lookup import find_committed
from longrecipe.results.rows import depth_rows, score_rows
from longrecipe.settings import Params
from longrecipe.train import Trained

MEASURES = {"passkey": ("passkey",), "recall": ("multi-key",), "NIAH(M)": NIAH_M}


def stage_table(numbers: Mapping[str, Mapping]) -> pd.DataFrame:
    """One row a stage from `Report.numbers()`: recall by length, NIAH(M) at the ends, general scores. NaN for lengths
    at which a stage was not measured."""
    rows, lengths = {}, sorted({length for measured in numbers.values() for length in measured["recall"]})
    for stage, measured in numbers.items():
        row = {f"recall @{n}": measured["recall"].get(n, {}).get("mean") for n in lengths}
        row |= {f"NIAH(M) @{n}": measured["niah_m"].get(n, {}).get("mean") for n in (lengths[0], lengths[-1])}
        rows[stage] = row | {"perplexity": measured["perplexity"], "copying": measured["copying"]}
    return pd.DataFrame(rows, dtype=float).T.rename_axis("stage")


def training_table(stages: Mapping[str, Trained]) -> pd.DataFrame:
    """One row for each trained stage: tokens, seconds, and whether it was interrupted or already in the cache."""
    rows = {name: (f"{stage.n_tokens:,}", f"{stage.seconds:.1f}", _ran(stage)) for name, stage in stages.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["tokens", "seconds", "ran"]).rename_axis("stage")


def _ran(stage: Trained) -> str:
    if stage.resumed_from is None:
        return "without interruption"
    return "before (cached)" if stage.resumed_from == len(stage.losses) else f"resumed from step {stage.resumed_from}"


def run_tables(
    reports: Mapping[str, Report], stages: Mapping[str, Trained], gains: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The tables that a run is saved with: scores, depths, training, and gains if there are any."""
    took = [(name, stage.seconds, stage.n_tokens, None) for name, stage in stages.items()]
    tables = {
        "scores": score_rows({name: report.numbers() for name, report in reports.items()}),
        "depths": depth_rows(reports),
        "training": pd.DataFrame(took, columns=["stage", "seconds", "n_tokens", "flops"]),
    }
    return tables if gains.empty else tables | {"gains": gains.reset_index()}


def next_to_committed(numbers: Mapping[str, Mapping], params: Params) -> pd.DataFrame:
    """Recall and NIAH(M) at T of each stage, here and in the run of results/ with the same settings.

    Training sums in another order on another kind of processor, so the last digits differ. There are no rows if
    results/ has no such run.
    """
    run = find_committed(params, "train")
    tables, columns = {"this run": score_rows(numbers)}, {}
    if run is not None:
        tables["results/"] = run.tables["scores"]
    for measure, task in (("recall", "multi-key"), ("NIAH(M)", "NIAH(M)")):
        for where, table in tables.items():
            rows = table[(table["task"] == task) & (table["length"] == params.target_length)]
            columns[measure, where] = rows.set_index("stage")["mean"]
    return pd.DataFrame(columns).reindex(list(numbers) if run is not None else []).rename_axis("stage")


def gain(one: Report | None, other: Report | None) -> pd.DataFrame:
    """How much better one model reads than another, by measure and text length: the mean difference over the documents
    that both read, its 95 % bootstrap interval, and the number of documents. No rows if one was not measured (None).

    There is no interval (NaN) for few documents, or if all have the same difference: see `evaluate.over_documents`.
    """
    rows = []
    prompts = paired(one, other) if one and other else pd.DataFrame(columns=["task", "length"])
    for measure, tasks in MEASURES.items():
        for length, each in prompts[prompts["task"].isin(tasks)].groupby("length"):
            scores = document_scores(each)
            rows.append((measure, length, *over_documents(scores), len(scores)))
    columns = ["measure", "length", "gain", "low", "high", "documents"]
    return pd.DataFrame(rows, columns=columns).set_index(["measure", "length"])


def claims(numbers: Mapping[str, Mapping], params: Params, gains: pd.DataFrame | None = None) -> Claims:
    """The claims that a run is judged by, from the stages' `Report.numbers()` and the gains over the RoPE rule alone.

    The thresholds are this kit's own: the base cannot read T tokens, the trained model can, better than with the RoPE
    rule alone, and it keeps the base's skills. At scale mini, recall of one of several facts is judged; at other scales
    passkeys if they were asked, at every length beyond the window. There are no claims about stages that were not
    measured.
    """
    found = Claims((_of_mini if params.scale == "mini" else _of_real)(numbers, params))
    at_target = ("recall", params.target_length)
    if gains is None or at_target not in gains.index:
        return found
    points = tuple(100 * gains.loc[at_target, ["gain", "low", "high"]].astype(float))
    words, limits = difference(points, "the RoPE rule alone")
    text = f"merged: training adds recall at {params.target_length} tokens to the RoPE rule alone"
    return Claims([*found, Claim(text, at_least(points, 0), words, limits)])


def _of_mini(numbers: Mapping[str, Mapping], params: Params) -> Iterator[Claim]:
    window, target = params.window, params.target_length
    trained = [stage for stage in ("extended", "merged", "paper's setting") if stage in numbers]
    for stage in trained or numbers.keys() & {"RoPE rule alone"}:
        found = numbers[stage]["recall"][target]["mean"]
        text = f"{stage}: recall at {target} tokens is at least 0.75"
        yield _claim(text, numbers[stage]["recall"][target], holds=found >= 0.75, main=stage != "extended")
    if "base" in numbers:
        found = numbers["base"]["recall"][target]
        yield _claim(f"base: recall at {target} tokens is at most 0.05", found, holds=found["mean"] <= 0.05)
    if {"merged", "base"} <= numbers.keys():
        ours, base = (numbers[stage]["recall"][window] for stage in ("merged", "base"))
        text = f"merged: recall at {window} tokens is at most 0.02 below the base's, {base['mean']:.2f}"
        yield _claim(text, ours, holds=ours["mean"] >= base["mean"] - 0.02)
        yield _perplexity(numbers, window, most=1.05)


def _of_real(numbers: Mapping[str, Mapping], params: Params) -> Iterator[Claim]:
    name = "passkey" if params.eval_passkeys else "recall"
    (task,) = MEASURES[name]
    beyond = [n for n in params.measured_lengths if n > params.window]
    where = f"{name} at {' and '.join(map(str, beyond))} tokens"
    reached = {stage: each for stage, each in numbers.items() if each["tasks"].keys() >= set(beyond)}
    if params.eval_passkeys and reached:
        asked = min(each["tasks"][n][task]["prompts"] for each in reached.values() for n in beyond)
        where += f" ({asked} trials or more each)"

    def scores(stage: str) -> list[float]:
        return [numbers[stage]["tasks"][n][task]["mean"] for n in beyond]

    def listed(stage: str) -> str:
        return " and ".join(f"{score:.2f}" for score in scores(stage))

    trained = "merged" if "merged" in numbers else "RoPE rule alone"
    if trained in numbers:
        yield Claim(f"{trained}: {where} is at least 0.75", judge(min(scores(trained)) >= 0.75), listed(trained))
    if "base" in reached:
        yield Claim(f"base: {where} is at most 0.25", judge(max(scores("base")) <= 0.25), listed("base"))
    if {"merged", "base"} <= numbers.keys():
        yield _perplexity(numbers, params.measured_lengths[0], most=1.03)


def _claim(text: str, found: Mapping, *, holds: bool, main: bool = True) -> Claim:
    triple = (found["mean"], found["low"], found["high"])
    return Claim(text, judge(holds), number(found["mean"], 3), interval_text(triple, 3), main=main)


def _perplexity(numbers: Mapping[str, Mapping], length: int, *, most: float) -> Claim:
    ours, base = (numbers[stage]["perplexity"] for stage in ("merged", "base"))
    text = f"merged: perplexity at {length} tokens is at most {most:g} times the base's, {base:.1f}"
    return Claim(text, judge(ours <= most * base), f"{ours:.1f}, {ours / base:.3f} times")
