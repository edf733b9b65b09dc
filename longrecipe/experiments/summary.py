"""The text of results/README.md, made from the finished runs."""

import statistics
from collections.abc import Mapping

import pandas as pd

from longrecipe.evaluate import hits
from longrecipe.experiments import tables
from longrecipe.results.store import finished, run_dir
from longrecipe.settings import Params
from longrecipe.stats import seed_interval


def summary() -> str:
    """The text of results/README.md: the finished runs of the train experiment, seeds of one setting together."""
    rows = [row for records in _by_setting("train") for row in _summary_rows(records)]
    head = (
        "model | method | T, tokens | facts in | seeds | stage | recall at T [95 %] | NIAH(M) | passkeys | perplexity"
    )
    lines = [
        "# Results",
        "",
        "Written by `longrecipe results` from the metrics.json of each run; do not edit. All rows are",
        "measured. Recall is that of one of several facts, in held-out text or in a passage repeated (noise); passkeys",
        "are those found of those asked, at T.",
        "Intervals are 95 %: of several seeds Student's t, of a single seed a bootstrap over its documents, which",
        "says nothing of other seeds.",
        "`paper/` holds the paper's numbers, quoted.",
        "",
        "## Runs of notebook 03",
        "",
        f"| {head} |",
        "|" + " --- |" * 10,
        *(f"| {row} |" for row in rows),
    ]
    return "\n".join(lines) + "\n" + _grid_summary() + _token_summary() + _position_summary()


def _grid_summary() -> str:
    """The paper's tables from the finished runs of the grid, every model and target."""
    if not finished(tables.GRID):
        return ""
    scores = _repeated(tables.scores())
    default = scores[scores["ratio"].isin([0.3, 1.0])]
    columns = ["NIAH(M)", "RULER-like", *tables.GENERAL, *tables.TRAINING]
    whole = tables.final(default[default["name"].isin(tables.NAMES.values())]).sort_values("model", kind="stable")
    whole = whole[whole["name"] != "contiguous"]
    trained = default[default["stage"].isin(["extended", "replayed", "merged"]) & default["name"].isin(whole["name"])]
    parts = tables.final(default[default["target"] == default["target"].max()])
    shares = tables.final(scores[scores["name"].isin(["LongRecipe", "contiguous", "FLT"])])
    sections = {
        "Table 1: methods": tables.over_seeds(whole, ["model", "target", "name"], columns),
        "Table 2: parts of the recipe": tables.over_seeds(
            parts, ["model", "target", "name"], ["NIAH(M)", *tables.GENERAL]
        ),
        "Table 3: stages": tables.over_seeds(
            trained, ["model", "target", "name", "stage"], ["NIAH(M)", *tables.GENERAL]
        ),
        "Figure 2: token ratio": tables.over_seeds(
            shares.sort_values(["model", "name", "ratio"]), ["model", "target", "name", "ratio"], ["NIAH(M)"]
        ),
    }
    about = (
        "Measured by the grid (`longrecipe sweep`), in percent, general scores in percent of the\n"
        "base's; "
        "mean and half of the 95 % interval over seeds (Student's t); what has fewer than 3 seeds is left out.\n"
        "TFLOP are counted, not measured. Seconds compare within a seed: others may be of another machine.\n"
        "Notebooks 04, 06 and 07 show these beside the paper's and judge its claims."
    )
    text = "".join(f"\n### {title}\n\n{_markdown(tables.shown(table))}" for title, table in sections.items())
    return f"\n## The paper's tables\n\n{about}\n{text}"


def _repeated(scores: pd.DataFrame, at_least: int = 3) -> pd.DataFrame:
    """The rows of settings with enough seeds for an interval that means something; the others are still under way."""
    seeds = scores.groupby(["model", "target", "method", "name", "ratio", "stage"])["seed"].transform("nunique")
    return scores[seeds >= at_least]


def _markdown(frame: pd.DataFrame) -> str:
    frame = frame.reset_index()
    rows = [list(map(str, frame.columns)), ["---"] * frame.shape[1], *(list(map(str, row)) for row in frame.to_numpy())]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _by_setting(experiment: str) -> list[list[dict]]:
    """The finished runs of an experiment, those that differ in the seed alone together."""
    groups: dict[str, list[dict]] = {}
    for _, record in finished(experiment):
        setting = run_dir(Params(**record["params"] | {"seed": 0}), experiment).name
        groups.setdefault(setting, []).append(record)
    return list(groups.values())


def _seeds(records: list[dict]) -> str:
    return ", ".join(str(record["seed"]) for record in records)


def _token_summary() -> str:
    """The token analyses: how far numerals lead, and what selection by anchors keeps; seeds of one setting together."""
    groups = _by_setting("tokens")
    lines = [
        "",
        "## Token analysis",
        "",
        "Lift: share among the 20 % of tokens that change most, over share of all tokens. Next: the largest lift of",
        "another type. Spearman: of lifts between halves of the documents. Anchors: kept by anchored selection, as",
        "times those of random selection. Several seeds: Student's t; one seed: bootstrap over documents (lift only).",
        "",
        "| model | score | tokens | seeds | types | numerals' lift [95 %] | next | Spearman | anchors, times random |",
        "|" + " --- |" * 9,
    ]
    for records in groups:
        for by, name in (("class", "number"), ("pos", "NUM")):
            cells = [_token_cells(record["numbers"], by, name) for record in records]
            lift, next_lift, spearman, times = ([cell[i] for cell in cells] for i in range(4))
            triple = seed_interval([each[0] for each in lift]) if len(lift) > 1 else lift[0]
            upper = max(next_lift, key=lambda pair: pair[1])
            row = [records[0]["params"]["model"], records[0]["params"]["analysis_score"]]
            row += [f"{sum(record['numbers']['n_tokens'] for record in records):,}"]
            row += [_seeds(records), by]
            row += ["{:.2f} [{:.2f}, {:.2f}]".format(*triple), f"{upper[1]:.2f} ({upper[0]})"]
            row += [f"{min(spearman):.2f}" + (" at least" if len(records) > 1 else ""), f"{statistics.mean(times):.2f}"]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n" if groups else ""


def _token_cells(numbers: Mapping, by: str, name: str) -> tuple:
    rows = numbers["rankings"][by]
    own = rows.get(name, {"lift": float("nan"), "lift_low": float("nan"), "lift_high": float("nan")})
    others = {key: row["lift"] for key, row in rows.items() if key != name and row["frequent"]}
    rival = max(others.items(), key=lambda pair: pair[1])
    triple = own["lift"], own["lift_low"], own["lift_high"]
    stability = numbers["stability"][by]
    return (
        triple,
        rival,
        float("nan") if stability is None else stability,
        numbers["density"]["anchored"]["times random"],
    )


def _position_summary() -> str:
    """What the positions of every method cover, seeds of one setting together."""
    columns = {
        "mean distance, tokens": ("mean_distance", ".0f"),
        "tokens in a row": ("contiguous_run", ".1f"),
        "samples that reach 90 %": ("reach", ".2f"),
        "distances by one sample": ("distances_by_one", ".3f"),
        "by all 64": ("distances_by_all", ".3f"),
        "unevenness": ("unevenness", ".2f"),
    }
    groups = _by_setting("positions")
    lines = [
        "",
        "## Positions",
        "",
        "What 64 samples of each method cover, without any training, at the ratio n / T; sentences taken at random.",
        "Distances: share of 1, ..., T - 1 that some pair of tokens has. Unevenness: standard deviation of pair counts",
        "between samples, over their mean. Several seeds: mean and 95 % interval (Student's t).",
        "",
        f"| model | T, tokens | ratio | seeds | method | {' | '.join(columns)} |",
        "|" + " --- |" * (5 + len(columns)),
    ]
    for records in groups:
        params, seeds = records[0]["params"], _seeds(records)
        for method in records[0]["numbers"]["coverage"]:
            found = [record["numbers"]["coverage"][method] for record in records]
            cells = [_plus_minus([each[key] for each in found], spec) for key, spec in columns.values()]
            row = [params["model"], str(params["target_length"]), str(params["ratio"]), seeds, method, *cells]
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n" if groups else ""


def _plus_minus(values: list[float], spec: str) -> str:
    """The mean, and half of its interval over seeds where they differ."""
    mean = statistics.mean(values)
    if len(set(values)) == 1:
        return f"{mean:{spec}}"
    return f"{mean:{spec}} ± {seed_interval(values)[2] - mean:{spec}}"


def _summary_rows(records: list[dict]) -> list[str]:
    params = records[0]["params"]
    target, rows = params["target_length"], []
    for stage in records[0]["numbers"]["stages"]:
        measured = [record["numbers"]["stages"][stage] for record in records]
        cells = []
        for values in ([m["recall"][target] for m in measured], [m["niah_m"][target] for m in measured]):
            means = [value["mean"] for value in values]
            triple = seed_interval(means) if len(means) > 1 else (means[0], values[0]["low"], values[0]["high"])
            cells.append("{:.3f} [{:.3f}, {:.3f}]".format(*triple))
        passkeys = [m["tasks"][target]["passkey"] for m in measured if "passkey" in m["tasks"][target]]
        cells.append(hits(passkeys) if passkeys else "")
        perplexity = f"{statistics.mean(m['perplexity'] for m in measured):.2f}"
        seeds = _seeds(records)
        hidden = params.get("eval_haystack", "text")
        about = params["model"], params["method"], str(target), hidden, seeds, stage
        rows.append(" | ".join((*about, *cells, perplexity)))
    return rows
