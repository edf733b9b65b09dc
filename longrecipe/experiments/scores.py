"""Scores of finished runs: one long table, in percent, from which all tables and figures are made."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from longrecipe.evaluate import RULER
from longrecipe.merge import RULES
from longrecipe.positions import METHODS
from longrecipe.positions import find as find_method
from longrecipe.results import Run, find, finished, load
from longrecipe.results.rows import GENERAL as GENERAL_TASKS
from longrecipe.results.run import empty
from longrecipe.settings import Params, profiles
from longrecipe.settings import load as load_params
from longrecipe.stats import seed_interval
from longrecipe.system.paths import params_dir

GRID, FRONT, STEPS = "grid", "front", "steps"
GENERAL = ("perplexity kept", "short recall kept", "copying kept")
TRAINING = (
    "stage 1 seconds",
    "analysis and stage 1 seconds",
    "training seconds",
    "training tokens, M",
    "stage 1 TFLOP",
    "training TFLOP",
)
# Equation 6 with M = 0: the selected sentences at contiguous positions.
CONTIGUOUS = "longrecipe:max_gap=0"
# The names of methods, in the order of tables: the paper's methods and the control, then all others.
NAMES = {name: METHODS[name].title for name in ("none", "flt", "rpes", "pose", "longrecipe")}
NAMES |= {CONTIGUOUS: "contiguous"} | {name: each.title for name, each in METHODS.items()}
SELECTED = {"anchored": "", "first": ", first tokens", "random": ", random sentences"}


def scores(grid: Iterable[Params] | None = None) -> pd.DataFrame:
    """A row for each run and stage: model, method, name, target, ratio, seed, threads and stage; NIAH(M), RULER-like
    and recall at the target and NIAH(M) at the window, in percent; general scores in percent of the base's; what
    training took.

    General scores, all at the window W: the base's perplexity over the model's, and the model's short recall and
    copying over the base's.

    Args:
        grid: settings of runs, which must all have finished. None takes every finished run that has a base and differs
            from its params file only in settings that the tables vary.

    Raises FileNotFoundError for a run that has not finished, or whose base (method none) has not been measured.
    """
    runs = [load(p, GRID) for p in grid] if grid is not None else usual(GRID, "selection", "ratio")
    bases = bases_of(runs)
    if grid is None:
        runs = [run for run in runs if base_key(run.params) in bases]
    return pd.DataFrame([row for run in runs for row in stage_rows(run, bases)])


def stage_rows(run: Run, bases: Mapping[tuple, Run]) -> list[dict[str, Any]]:
    """The rows of `scores` of one run; bases: the runs of method none, see `bases_of`.

    Raises FileNotFoundError if the run's base has not been measured.
    """
    p, training = run.params, run.table("training").set_index("stage").to_dict("index")
    if base_key(p) not in bases:
        raise FileNotFoundError(f"{p.model}, T = {p.target_length}, seed {p.seed}: run method none as well.")
    base = _means(bases[base_key(p)])["base"]
    about = {
        "model": p.model,
        "method": p.method,
        "name": _name(p),
        "target": p.target_length,
        "ratio": 1.0 if p.method == "flt" else p.ratio,
        "seed": p.seed,
        "threads": run.device.get("threads"),
    }
    return [
        about | {"stage": stage} | _long(means, p) | _kept(means, base, p) | _trained(training, stage)
        for stage, means in _means(run).items()
    ]


def usual(store: str, *varied: str) -> list[Run]:
    """Finished runs of a store that differ from their params files only in method, target, seed and varied settings."""
    varied = ("method", "target_length", "seed", *varied)
    return [
        run
        for run in finished(store)
        if run.params in _by_files(run.params, {key: getattr(run.params, key) for key in varied})
    ]


def bases_of(runs: Iterable[Run]) -> dict[tuple, Run]:
    """The runs of method none by their `base_key`."""
    return {base_key(run.params): run for run in runs if run.params.method == "none"}


def _by_files(p: Params, changes: Mapping) -> list[Params]:
    """The settings of a run's params file and of its profiles, with changes; none if it has no such file."""
    path = params_dir() / p.scale / f"{p.model}.yaml"
    known = [None, *profiles(path)] if path.is_file() else []
    return [load_params(p.model, p.scale, profile, **changes) for profile in known]


def _name(p: Params) -> str:
    name = NAMES.get(p.method, p.method)
    selects = find_method(p.method).text == "selected"
    return name + (SELECTED.get(p.selection, f", {p.selection}") if selects else "")


def base_key(p: Params) -> tuple:
    """What the base of a run is: model, target, seed and text."""
    return p.model, p.target_length, p.seed, p.distractors, p.fact_values


# Mean scores by task and text length.
Means = Mapping[tuple[str, int], float]


def _means(run: Run, *by: str) -> dict[Any, Means]:
    """The mean scores of a run, by stage, or by other columns of its scores."""
    return {
        key if by else key[0]: dict(zip(zip(rows["task"], rows["length"], strict=True), rows["mean"], strict=True))
        for key, rows in run.table("scores").groupby(list(by) or ["stage"], sort=False)
    }


def _long(means: Means, p: Params) -> dict[str, float]:
    # The longest length measured: the target, or the window if the base was only asked inside it.
    target = max(length for _, length in means)
    tasks = {task: mean for (task, n), mean in means.items() if n == target and task not in ("NIAH(M)", *GENERAL_TASKS)}
    return {
        "NIAH(M)": 100 * means["NIAH(M)", target],
        "RULER-like": 100 * sum(tasks.get(task, float("nan")) for task in RULER) / len(RULER),
        "recall": 100 * means["multi-key", target],
        "NIAH(M) at W": 100 * means["NIAH(M)", p.window],
    } | {f"{task} at T": 100 * mean for task, mean in tasks.items()}


def _kept(means: Means, base: Means, p: Params) -> dict[str, float]:
    (perplexity, copying), (base_perplexity, base_copying) = _general(means), _general(base)
    return {
        "perplexity kept": 100 * base_perplexity / perplexity,
        "short recall kept": 100 * means["multi-key", p.window] / base["multi-key", p.window],
        "copying kept": 100 * copying / base_copying,
    }


def _general(means: Means) -> tuple[float, float]:
    """Perplexity and copying, which are measured at one length."""
    by_task = {task: mean for (task, _), mean in means.items()}
    return by_task["perplexity"], by_task["copying"]


def _trained(training: Mapping, stage: str) -> dict[str, float]:
    """What a model took, up to its stage: of training, and of the token analysis if there is one."""
    used = [training[name] for name in _STAGES_OF.get(stage, ()) if name in training]
    if not used:
        return {}
    total = {key: sum(each[key] for each in used) for key in ("seconds", "n_tokens", "flops")}
    # Its seconds are NaN if they are not known.
    before = [training[name] for name in ("token analysis", "context scores") if name in training]
    analysis = {key: sum(each[key] for each in before) for key in ("seconds", "flops")}
    return {
        "stage 1 seconds": training["extended"]["seconds"],
        "stage 1 TFLOP": training["extended"]["flops"] / 1e12,
        "analysis and stage 1 seconds": analysis["seconds"] + training["extended"]["seconds"],
        "training seconds": analysis["seconds"] + total["seconds"],
        "training tokens, M": total["n_tokens"] / 1e6,
        "training TFLOP": (analysis["flops"] + total["flops"]) / 1e12,
    }


_STAGES_OF = {"extended": ("extended",), "replayed": ("extended", "replayed"), "merged": ("extended", "replayed")}


def default_ratio(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scores` at the default token ratio, and those of FLT."""
    return rows[rows["ratio"].isin([Params.model_fields["ratio"].default, 1.0])]


def final(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `scores` that tables compare: merged models, and the untrained base by the names of its stages."""
    untrained = frame["method"].eq("none") & frame["stage"].isin(["base", "RoPE rule alone"])
    rows = frame[untrained | frame["stage"].eq("merged")].copy()
    rows.loc[rows["method"] == "none", "name"] = rows["stage"]
    return in_order(rows)


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `scores` in the order of the paper's methods, which come before the variants of LongRecipe."""
    order = {name: i for i, name in enumerate(["base", *NAMES.values()])}
    return rows.sort_values(
        "name", key=lambda names: names.map(lambda name: order.get(name, len(order))), kind="stable"
    )


def over_seeds(frame: pd.DataFrame, by: Sequence[str], columns: Sequence[str]) -> pd.DataFrame:
    """Mean of columns over the seeds of each group, in the order of first appearance, with 95 % intervals.

    Columns of the result: (name, mean), (name, low), (name, high), and (seeds, number). One seed has no interval (NaN).
    Raises ValueError if a group has several rows of one seed.
    """
    rows = {}
    for key, group in frame.groupby(list(by), sort=False):
        if not group["seed"].is_unique:
            raise ValueError(f"{key} has several rows for a seed: group by more than {', '.join(by)}.")
        row: dict[tuple[str, str], float] = {("seeds", "number"): len(group)}
        for column in columns:
            values = group[column].dropna().tolist()
            alone = (values[0] if values else float("nan"), float("nan"), float("nan"))
            triple = seed_interval(values) if len(values) > 1 else alone
            row |= {(column, name): value for name, value in zip(("mean", "low", "high"), triple, strict=True)}
        rows[key] = row
    index = pd.MultiIndex.from_tuples(rows, names=list(by))
    table = pd.DataFrame(list(rows.values()), index=index if len(by) > 1 else index.get_level_values(0))
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


def shown(table: pd.DataFrame, digits: int = 1) -> pd.DataFrame:
    """A table of `over_seeds` as text, mean ± half of the interval."""
    names = list(dict.fromkeys(name for name, kind in table.columns if kind == "mean"))
    columns = {"seeds": table["seeds", "number"].astype(int)} if ("seeds", "number") in table else {}
    for name in names:
        mean, high = table[name, "mean"], table[name, "high"]
        columns[name] = [_plus_minus(m, h - m, digits) for m, h in zip(mean, high, strict=True)]
    return pd.DataFrame(columns, index=table.index)


def _plus_minus(mean: float, half: float, digits: int) -> str:
    if pd.isna(mean):
        return ""
    return f"{mean:,.{digits}f}" + ("" if pd.isna(half) else f" ± {half:,.{digits}f}")


def depths(grid: Iterable[Params], stage: str = "merged", task: str = "multi-key") -> pd.DataFrame:
    """Scores by text length and depth of what is asked for, all seeds together: name, length, depth (fifth), score."""
    frames = []
    for p in grid:
        run = find(p, GRID)
        rows = (run.table("depths") if run else empty("depths")).query("stage == @stage and task == @task")
        frames.append(rows.assign(name=NAMES.get(p.method, p.method), hits=rows["mean"] * rows["count"]))
    sums = pd.concat(frames).groupby(["name", "length", "depth"], sort=False)[["hits", "count"]].sum()
    return (sums["hits"] / sums["count"]).rename("score").reset_index()


def front_scores(grid: Iterable[Params] | None = None, untrained: Iterable[Params] = ()) -> pd.DataFrame:
    """The merges of finished runs of `fronts`: model, target, name, replay, rule, weight, seed, NIAH(M) and general
    scores. Weight 0 is the replayed model, the same by every rule.

    Args:
        grid: settings of runs, which must all have finished. None takes every finished run that has a base and differs
            from its params file only in method, target, seed and replay.
        untrained: settings of the finished runs of method none with the same targets and seeds; not needed without a
            grid.

    Raises FileNotFoundError for a run that has not finished.
    """
    if grid is None:
        bases = bases_of(usual(GRID))
        runs = usual(FRONT, "replay_steps", "replay_long_share", "replay_kl_weight")
        runs = [run for run in runs if base_key(run.params) in bases]
    else:
        runs, bases = [load(p, FRONT) for p in grid], bases_of(load(p, GRID) for p in untrained)
    bases, rows = {key: _means(run)["base"] for key, run in bases.items()}, []
    for run in runs:
        p = run.params
        replay = f"{p.replay_steps} steps, {p.replay_long_share:.0%} long, KL {p.replay_kl_weight:g}"
        about = {"model": p.model, "target": p.target_length, "name": NAMES.get(p.method, p.method)}
        about |= {"replay": replay, "seed": p.seed}
        for (rule, weight), means in _means(run, "rule", "weight").items():
            scored = _long(means, p) | _kept(means, bases[base_key(p)], p)
            for each in [rule] if weight else RULES:
                rows.append(about | {"rule": each, "weight": weight} | scored)
    return pd.DataFrame(rows)


def step_scores(grid: Iterable[Params] | None = None) -> pd.DataFrame:
    """Stage 1 of finished runs of `steps`: model, target, name, seed, step, number of steps, NIAH(M) and recall at the
    target and NIAH(M) at the window in percent, and perplexity at the window. No replay and no merge follow.

    Args:
        grid: settings of runs, which must all have finished. None takes every finished run that differs from its params
            file only in method, target, seed and eval_steps.

    Raises FileNotFoundError for a run that has not finished.
    """
    rows = []
    for run in usual(STEPS, "eval_steps") if grid is None else [load(p, STEPS) for p in grid]:
        p = run.params
        about = {"model": p.model, "target": p.target_length, "name": _name(p), "seed": p.seed}
        for stage, means in _means(run).items():
            at = {"step": int(stage.removeprefix("step ")), "steps": p.extend_steps}
            rows.append(about | at | _long(means, p) | {"perplexity": _general(means)[0]})
    return pd.DataFrame(rows)
