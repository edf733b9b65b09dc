"""Standard benchmarks in notebooks 04 and 06: scores of finished runs next to the paper's Tables 1 and 3.

Runs of `longrecipe bench --params` are found by model and scale. `answers` reads their prompts, and the tables are made
from these rows.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from longrecipe import bench, results, settings
from longrecipe.bench.scores import with_niah
from longrecipe.bench.suites import SUITES, to_run
from longrecipe.claims import number
from longrecipe.experiments import quoted, table1
from longrecipe.experiments.scores import NAMES
from longrecipe.results import Run
from longrecipe.settings import Params

LONG, GENERAL = ("niah_m", "needles", "ruler", "longbench"), quoted.GENERAL
TITLES = {name: suite.title for name, suite in SUITES.items()}
_PAPER_WINDOW = 8192  # of Llama-3, by which the paper's targets are named: 10 windows are its 80k
_RUN = ["name", "target", "seed"]
_STAGES = ("extended", "replayed", "merged")


def model_of(grid: Sequence[Params]) -> Params:
    """The settings whose benchmarks a notebook shows: LongRecipe's in its grid; at scale mini, whose models are too
    small for them, those of SmolLM2 on a CPU."""
    first = next((p for p in grid if p.method == "longrecipe"), grid[0])
    return settings.load("smollm2", "small", "cpu") if first.scale == "mini" else first


def answers(p: Params, suites: Sequence[str]) -> pd.DataFrame:
    """The table `benchmarks` of all finished runs with the model and scale of p: a row for each prompt and stage, with
    the model, the name of the method, the target, the seed and the run. No rows if there are none.

    If several runs have the same method, target and seed, the one with the most rows of a suite counts.
    """
    found: dict[tuple, pd.DataFrame] = {}
    for run in _runs(p):
        rows, about = with_niah(run.table("benchmarks")), _about(run)
        for suite, each in rows[rows["suite"].isin(suites)].groupby("suite", sort=False):
            key = (*about.values(), suite)
            if len(each) > len(found.get(key, ())):
                found[key] = each.assign(**about, model=p.model, run=run.name)
    columns = [*results.TABLES["benchmarks"], *_RUN, "model", "run"]
    ordered = [found[key] for key in sorted(found, key=lambda key: suites.index(key[-1]))]
    return pd.concat(ordered, ignore_index=True) if found else pd.DataFrame(columns=columns)


def by_suite(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores in percent with 95 % intervals by suite and length, a column for each stage; prompts of a stage, and their
    mean tokens. *cut*: prompts without their beginning, because the model's window is too short for them.

    For models and targets that the paper has, its merged model (Table 1, quoted) is next to the longest length.
    """
    table = _by_stage(rows, bench.by_suite, ["suite", "length"])
    for model, name, target in rows[["model", "name", "target"]].drop_duplicates().itertuples(index=False):
        paper = table1.paper(model, target / _PAPER_WINDOW)
        if name in paper.index:
            longest = {key[0]: key for key in table.index}
            cells = pd.Series({key: number(paper.loc[name, suite]) for suite, key in longest.items() if suite in paper})
            table[f"{name}, {target // 1024}k (quoted)"] = cells.reindex(table.index).fillna("–")
    counts = rows.groupby("suite")["task"].nunique()
    titles = {
        name: TITLES[name] + (f" ({n} of {SUITES[name].n_tasks} tasks)" if n < SUITES[name].n_tasks else "")
        for name, n in counts.items()
    }
    return table.rename(index=titles, level="suite")


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What each model scores above the base, and above the RoPE rule alone: points by suite and length, paired by
    prompt, with 95 % intervals; of the first target and seed of each method. For suites whose answers have one score,
    as LONG."""
    cells: dict[str, dict] = {}
    for name, each in rows.groupby("name", sort=False):
        models = dict(list(_first(each).groupby("stage", sort=False)))
        method = f"{name}, " if rows["name"].nunique() > 1 else ""
        for reference in ("base", "RoPE rule alone"):
            for stage in [stage for stage in models if reference in models and stage not in ("base", reference)]:
                column = cells.setdefault(f"{method}{stage} - {reference}", {})
                for row in _paired(models[stage], models[reference]):
                    column[TITLES[row["suite"]], _length(row["length"])] = _points(row)
    return pd.DataFrame(cells).rename_axis(["suite", "length"]) if any(cells.values()) else pd.DataFrame()


def by_task(rows: pd.DataFrame) -> pd.DataFrame:
    """As `by_suite`, for each task."""
    asked = rows[rows["suite"].isin(to_run(rows["suite"].unique().tolist()))]
    return _by_stage(asked, bench.by_task, ["suite", "task", "length"]).rename(index=TITLES, level="suite")


def next_to_paper(rows: pd.DataFrame) -> pd.DataFrame:
    """General benchmarks: the score of the base in percent, and what each stage differs from it in points (measured:
    paired by prompt, with 95 % intervals), next to the paper's Table 3 (quoted: Llama-3-8B to 80k).

    order: the models from best to worst. Without rows, only the paper's numbers.
    """
    measured = {name: _from_base(each) for name, each in rows.groupby("name", sort=False)}
    cells, asked = {}, [key for columns in measured.values() for key in columns.get("order", {})]
    keys = list(dict.fromkeys([*asked, *((suite, "") for suite in GENERAL if suite not in dict(asked))]))
    for name, columns in measured.items():
        title = "measured" if len(measured) == 1 else f"measured, {name}"
        cells |= {(title, column): values for column, values in columns.items()}
    for name in measured or ["LongRecipe"]:
        title = "quoted" if len(measured) < 2 else f"quoted, {name}"
        for column, values in _quoted_from_base(name).items():
            cells[title, column] = {key: values[key[0]] for key in keys}
    table = pd.DataFrame({column: pd.Series(values) for column, values in cells.items()}).reindex(keys).fillna("–")
    names = [TITLES[suite] + (f", {how}" if how and suite == "gsm8k" else "") for suite, how in keys]
    return table.set_axis(pd.Index(names, name="benchmark"))


def conditions(p: Params, rows: pd.DataFrame) -> pd.DataFrame:
    """How the runs behind rows of `answers` were measured, a column for each run."""
    found = {}
    for run in _runs(p):
        own = rows[rows["run"] == run.name]
        if len(own):
            found[run.name] = dict(_conditions(run, own))
    return pd.DataFrame(found).fillna("").rename_axis("measured with")


def _runs(p: Params) -> list[Run]:
    return results.finished("bench", model=p.model, scale=p.scale)


def _about(run: Run) -> dict[str, Any]:
    p = run.params
    return dict(zip(_RUN, (NAMES.get(p.method, p.method), p.target_length, p.seed), strict=True))


def _scored(rows: pd.DataFrame, score: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
    """The scores of each run and stage."""
    keys = [*_RUN, "stage"]
    frames = [score(each).assign(**dict(zip(keys, key, strict=True))) for key, each in rows.groupby(keys, sort=False)]
    return pd.concat(frames, ignore_index=True)


def _by_stage(rows: pd.DataFrame, score: Callable[[pd.DataFrame], pd.DataFrame], index: list[str]) -> pd.DataFrame:
    """Scores in percent with their intervals, a column for each stage, and the prompts and their tokens: several
    numbers if they differ."""
    scored = _scored(rows, score)
    varied = [name for name in _RUN if scored[name].nunique() > 1]
    counts = scored.groupby(index, sort=False)
    cells: dict = {name: counts[name].agg(_counts).to_dict() for name in ("prompts", "tokens")}
    for row in scored.to_dict("records"):
        key = tuple(row[name] for name in index)
        column = ", ".join([*(f"{row[name]}" for name in varied), row["stage"]])
        cut = f", {row['cut']} cut" if row["cut"] else ""
        cells.setdefault(column, {})[key] = _percent(row) + cut
    places = [list(dict.fromkeys(scored[name])).index for name in index[:-1]]
    order = sorted(cells["prompts"], key=lambda key: (*(p(k) for p, k in zip(places, key, strict=False)), key[-1]))
    table = pd.DataFrame({column: pd.Series(values) for column, values in cells.items()}).reindex(order).fillna("–")
    table = table.set_axis(pd.MultiIndex.from_tuples(order, names=index))
    return table.rename(index=_length, level="length")


def _counts(values: pd.Series) -> str:
    return ", ".join(dict.fromkeys(f"{value:,.0f}" for value in values))


def _length(n: int) -> str:
    """A length in tokens as text; prompts of suites without lengths have their own."""
    return f"{n:,}" if n else "own"


def _percent(row: dict) -> str:
    return f"{number(row['mean'])} [{number(row['low'])}, {number(row['high'])}]"


def _signed(value: float) -> str:
    return f"{'+' if round(value, 1) > 0 else ''}{number(value)}"


def _first(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first target and seed."""
    return rows[(rows[["target", "seed"]] == rows[["target", "seed"]].iloc[0]).all(axis="columns")]


def _paired(rows: pd.DataFrame, reference: pd.DataFrame) -> list[dict]:
    """What a model differs from another one, by the suites and lengths that both were asked."""
    both = reference.merge(rows[["suite", "length"]].drop_duplicates())
    return bench.differences(rows, both).to_dict("records") if len(both) else []


def _points(row: dict) -> str:
    return f"{_signed(row['mean'])} [{_signed(row['low'])}, {_signed(row['high'])}]"


def _from_base(rows: pd.DataFrame) -> dict[str, dict[tuple[str, str], str]]:
    """The cells of one method, by column, suite and filter; of the first target and seed."""
    rows, cells = _first(rows), {}
    means: dict[tuple, dict[str, float]] = {}
    for row in _scored(rows, bench.by_suite).to_dict("records"):
        means.setdefault((row["suite"], row["filter"]), {})[row["stage"]] = row["mean"]
        if row["stage"] == "base":
            cells.setdefault("base, %", {})[row["suite"], row["filter"]] = _percent(row)
    base = rows[rows["stage"] == "base"]
    for stage, each in rows[rows["stage"] != "base"].groupby("stage", sort=False):
        for row in _paired(each, base):
            cells.setdefault(stage, {})[row["suite"], row["filter"]] = _points(row)
    return cells | {"order": {key: _order(each) for key, each in means.items()}}


def _quoted_from_base(name: str) -> dict[str, dict[str, str]]:
    """The paper's Table 3 for a method, by column and suite; no columns for a method that it does not have."""
    base = quoted.read("table1_methods").set_index(["family", "method"]).loc[("llama3-8b-instruct", "base")]
    rows = quoted.read("table3_retention").replace({"method": NAMES}).set_index(["method", "stage"])
    if name not in rows.index:
        return {}
    means = {"base": base} | {stage: rows.loc[(name, stage)] for stage in _STAGES}
    cells = {"base, %": {suite: number(base[suite]) for suite in GENERAL}}
    cells |= {stage: {suite: _signed(means[stage][suite] - base[suite]) for suite in GENERAL} for stage in _STAGES}
    order = {suite: _order({stage: each[suite] for stage, each in means.items()}) for suite in GENERAL}
    return cells | {"order": order}


def _order(means: dict[str, float]) -> str:
    """The names from the largest mean to the smallest, with = between equal ones."""
    names = sorted(means, key=means.__getitem__, reverse=True)
    signs = (f" {'=' if means[a] == means[b] else '>'} {b}" for a, b in itertools.pairwise(names))
    return names[0] + "".join(signs)


def _conditions(run: Run, rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    p, known = run.params, run.packages
    suites = list(dict.fromkeys(rows["suite"]))
    yield "target, seed", f"{p.target_length:,}, {p.seed}"
    yield "solved examples", ", ".join(f"{TITLES[name]} {SUITES[name].shots}" for name in suites)
    yield "prompts of each task", f"{p.bench_limit or 'all'}"
    yield "tasks left out", ", ".join(p.bench_without or ()) or "none"
    if any(SUITES[name].by_length for name in suites):
        yield "haystack", f"{known.get('haystack', 'none')}, {known.get('haystack_sha256', '')[:10]}".strip(", ")
    if "ruler" in suites or "niah_m" in suites:
        yield "prompts filled to the length", "yes" if p.bench_fill else "no"
        yield "sentences split by", known.get("sentences", "")
        yield "corrections of RULER", known.get("corrections of RULER", "none")
    yield "chat template", "yes" if p.bench_chat_template else "no"
    yield "lm_eval, transformers", f"{known.get('lm_eval', '?')}, {known.get('transformers', '?')}"
    yield "device", f"{run.device.get('name', '?')}"
    yield "minutes", known.get("minutes", "")
