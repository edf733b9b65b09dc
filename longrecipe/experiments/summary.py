"""The text of results/README.md, made from the finished runs."""

import statistics
from collections.abc import Mapping, Sequence

import pandas as pd

from longrecipe.bench.scores import by_suite, with_niah
from longrecipe.evaluate import hits
from longrecipe.experiments import EXPERIMENTS, beyond, factors, growth, real, scores, steps
from longrecipe.results import Run, by_setting, finished
from longrecipe.stats import seed_interval

_INTRODUCTION = """\
# Results

`longrecipe results` writes this page from the finished runs; do not edit it. All rows are measured. The
[glossary](../docs/glossary.md) explains the terms.

`runs.csv` has a row per run: its settings (those that differ from `settings.json`), seed, commit, versions, device and
seconds. The parquet files have the rows of all runs, by experiment and run: `scores` (by stage, text length and task),
`training` (seconds, tokens and FLOPs of each stage), `depths` (scores by depth of the fact), `gains` (of the merged
model over the RoPE rule alone), `losses` (by document and position) and `documents` (scores by document) of a real
model, `rankings`, `rises`, `shares`, `stability` and `densities` (token analysis), `coverage` (positions) and
`benchmarks` (each prompt of standard benchmarks). `paper/` quotes the paper's numbers, `resources/` has the measured
costs of training, `published_speeds.csv` quotes those of other projects, and `figures/` has the figures of the
notebooks.
"""
_RUNS = """
## Runs of notebook 03

Recall is the share of correct answers about one of several facts. The facts are in held-out text, or in a passage that
is repeated (noise). *f* is the factor of the RoPE rule. *needles* is NIAH(M) of mini models, and own needles of
SmolLM2, whose run with f = 4 was measured with the
[former wording](../docs/experiments.md#needles-of-real-models). Passkeys are those found of those asked. All are
measured at T; SmolLM2's base is no longer asked there. Intervals are 95 %: for several seeds Student's t, for one seed
a bootstrap over its documents, which says nothing about other seeds.

"""
_GRID = """
## The paper's tables

Measured by `longrecipe sweep`. Scores are in percent, and those that end in *kept* are in percent of the base's. A cell
is the mean and half of the 95 % interval over seeds (Student's t). Settings with fewer than 3 seeds are left out, and
so are runs that differ from the files in `params/` in more than what the tables vary. TFLOP are counted, not measured.
All runs of a seed are from one machine, but seeds may be from different ones. Notebooks 04, 06 and 07 show these tables
next to the paper's and check its claims.

The last table is this kit's own. *replay* is its number of steps, the share of steps on the long samples of stage 1,
and the weight of the KL term. *rule* and *weight* are those of the merge with the original model; rule *none* is the
replayed model. These runs are measured on 40 % of the documents.
"""
_STEPS = """
## Scores during stage 1

The model after some optimizer steps of stage 1, before replay and merge, on 40 % of the documents. Scores are in
percent; perplexity is measured at the window.

"""
_BEYOND = """
## Beyond the paper

Runs of this kit's own recipes (notebook 08), in percent as above. *steps* are those of stage 1 and the long steps of
replay, *weights* the scheme of the loss weights and its strength, *text* what makes the text harder, *learning rates*
those of stage 1 and replay. Unless *analysis* says otherwise, the token analysis takes about a quarter of the usual
one's time.
"""
_REAL = """
## A real model

SmolLM2-135M to 16,384 tokens, one seed: after training on equal numbers of samples (`longrecipe sweep real`, notebook
08), with factors f of the RoPE rule without training (`longrecipe sweep factors`), and after more samples (`longrecipe
sweep growth`); tables without enough finished runs are left out. Losses are in nats per token of held-out documents of
16,384 tokens, to the base's window and beyond it; differences are paired by document. Recall is that of 8 facts in each
document, in percent. Perplexity is measured at 2,048 tokens. Intervals are 95 % bootstraps over documents, which say
nothing about other seeds.
"""
_TOKENS = """
## Token analysis

*Lift* is the share of a type among the 20 % of tokens that change most, divided by its share among all tokens. *next*
is the largest lift of another type. *Spearman* is the correlation of lifts between two halves of the documents. The
last column compares the anchors that anchored selection keeps with those that random selection keeps. Intervals: for
several seeds Student's t, for one seed a bootstrap over documents. *documents* are those of each seed, *tokens* those
of all seeds. The *embedded* text is that of the mini models, or Python's own documentation; types are classes of the
tokenizer, or parts of speech with their tagger.

"""
_POSITIONS = """
## Positions

What 64 samples of each method cover, without any training, at the ratio n / T, with randomly chosen sentences.
*distances* is the share of 1, ..., T - 1 that some pair of tokens has. *unevenness* is the standard deviation of the
number of pairs, divided by their mean. For several seeds: mean and half of the 95 % interval (Student's t).

"""
_BENCHMARKS = """
## Standard benchmarks

By lm-evaluation-harness (`longrecipe bench`), in percent. Intervals are 95 % over prompts, of one training. *tasks* are
those that were asked, *tokens* the mean length of the prompts; prompts that were *cut* did not fit into the window.
[docs/benchmarks.md](../docs/benchmarks.md) describes the suites.

"""


def summary() -> str:
    """The text of results/README.md: the finished runs of every experiment, seeds of one setting together."""
    parts = [_INTRODUCTION]
    if groups := by_setting("train"):
        parts += [_RUNS, _markdown(pd.concat([_run_table(runs) for runs in groups], ignore_index=True))]
    if finished(scores.GRID):
        parts.append(_GRID)
        parts += [f"\n### {title}\n\n{_markdown(table.reset_index())}" for title, table in _paper_tables().items()]
    if len(rows := _repeated(scores.step_scores())):
        parts += [_STEPS, _markdown(scores.shown(steps.section(rows)).reset_index())]
    if tables := _own_tables():
        parts.append(_BEYOND)
        parts += [f"\n### {title}\n\n{_markdown(table.reset_index())}" for title, table in tables.items()]
    parts += _real_tables()
    if groups := by_setting("tokens"):
        parts += [_TOKENS, _markdown(pd.concat([_token_table(runs) for runs in groups], ignore_index=True))]
    if groups := by_setting("positions"):
        parts += [_POSITIONS, _markdown(pd.concat([_coverage_table(runs) for runs in groups], ignore_index=True))]
    if runs := finished("bench"):
        parts += [_BENCHMARKS, _markdown(pd.concat([_benchmark_table(run) for run in runs], ignore_index=True))]
    return "".join(parts)


def _real_tables() -> list[str]:
    """The tables of a real model with their text, without those of experiments that have too few runs for a claim."""
    parts = []
    for module in (real, factors, growth):
        found = module.compared()
        if len(module.claims(found)):
            table = module.table(found).rename_axis("model").reset_index()
            parts.append(f"\n### {module.EXPERIMENT.title}\n\n{_markdown(table)}")
    return [_REAL, *parts] if parts else []


def _markdown(table: pd.DataFrame) -> str:
    # Cells are text already; tabulate would read some of them as numbers.
    return table.astype(str).to_markdown(index=False, tablefmt="github", disable_numparse=True) + "\n"


def _seeds(runs: Sequence[Run]) -> str:
    return ", ".join(str(run.params.seed) for run in runs)


def _run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row per stage of runs of one setting."""
    p, rows = runs[0].params, []
    found = [run.table("scores").set_index(["stage", "task", "length"]).sort_index() for run in runs]
    for stage in runs[0].table("scores")["stage"].unique():
        row = {"model": p.model, "method": p.method, "T, tokens": p.target_length, "facts in": p.eval_haystack}
        row["f"] = f"{p.rope_factor or p.target_length / p.window:g}"
        row |= {"seeds": _seeds(runs), "stage": stage}
        # A pretrained base is not asked beyond its window.
        asked = {
            task: [each.loc[at] for each in found if (at := (stage, task, p.target_length)) in each.index]
            for task in ("multi-key", "NIAH(M)", "passkey")
        }
        row |= {"recall at T [95 %]": _score(asked["multi-key"]), "needles": _score(asked["NIAH(M)"])}
        row["passkeys"] = hits(asked["passkey"]) if asked["passkey"] else ""
        perplexity = statistics.mean(each.loc[(stage, "perplexity"), "mean"].item() for each in found)
        rows.append(row | {"perplexity": f"{perplexity:.2f}"})
    return pd.DataFrame(rows)


def _score(cells: Sequence[Mapping[str, float]]) -> str:
    """The mean of the cells of several seeds, or one cell, with its interval; empty without cells."""
    if not cells:
        return ""
    means = [cell["mean"] for cell in cells]
    triple = seed_interval(means) if len(means) > 1 else (means[0], cells[0]["low"], cells[0]["high"])
    return "{:.3f} [{:.3f}, {:.3f}]".format(*triple)


def _paper_tables() -> dict[str, pd.DataFrame]:
    """The tables of the experiments from the finished runs, every model and target, by title."""
    rows = {scores.GRID: _repeated(scores.scores()), scores.FRONT: _repeated(scores.front_scores())}
    return _tables(rows)


def _own_tables() -> dict[str, pd.DataFrame]:
    """The tables of this kit's own experiments, by title."""
    rows = beyond.rows()
    if not len(rows):
        return {}
    # Learning rates are searched on one seed.
    is_searched = rows["learning rates"] != ""
    return _tables({beyond.BEYOND: pd.concat([_repeated(rows[~is_searched]), rows[is_searched]])})


def _tables(rows: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables of the experiments with rows in a store, by title."""
    found = {
        each.title: each.section(rows[each.protocol.store])
        for each in EXPERIMENTS.values()
        if each.section is not None and len(rows.get(each.protocol.store, ()))
    }
    return {title: scores.shown(table) for title, table in found.items() if len(table)}


# The columns of scores that tell settings apart; each table of scores has some of them.
_SETTING = ["model", "target", "method", "name", "ratio", "stage", "replay", "rule", "weight", "step"]
_SETTING += ["steps", "weights", "analysis", "text", "RoPE"]


def _repeated(rows: pd.DataFrame, at_least: int = 3) -> pd.DataFrame:
    """The rows of settings with enough seeds for an interval that means something; the others are still under way."""
    by = rows.columns.intersection(_SETTING).tolist()
    return rows[rows.groupby(by)["seed"].transform("nunique") >= at_least] if by else rows


def _token_table(runs: Sequence[Run]) -> pd.DataFrame:
    """How far numerals lead, by class and by part of speech, and what selection by anchors keeps."""
    p, rows = runs[0].params, []
    stability = pd.concat([run.table("stability").query("positions == 'all'") for run in runs]).set_index("by")
    times = [run.table("densities").set_index("selection").loc["anchored", "times random"] for run in runs]
    for by, name in (("class", "number"), ("pos", "NUM")):
        tables_by = [run.table("rankings").query("positions == 'all'").set_index("by").loc[by] for run in runs]
        rankings = [table.set_index("type") for table in tables_by]
        own = [ranking.reindex([name]).iloc[0] for ranking in rankings]
        several = len(own) > 1
        triple = seed_interval([row["lift"] for row in own]) if several else own[0][["lift", "lift_low", "lift_high"]]
        # The first of the largest, seed by seed.
        others = [ranking.loc[ranking["frequent"] & (ranking.index != name), "lift"] for ranking in rankings]
        rival = max(others, key=lambda lifts: lifts.max())
        found = stability.loc[[by]]
        rows.append(
            {
                "model": p.model,
                "score": p.analysis_score,
                "text": p.text or "embedded",
                "documents": p.analysis_documents,
                "tokens": f"{found['n_tokens'].sum():,}",
                "seeds": _seeds(runs),
                "types": f"pos, {p.tagger}" if by == "pos" else by,
                "numerals' lift [95 %]": "{:.2f} [{:.2f}, {:.2f}]".format(*triple),
                "next": f"{rival.max():.2f} ({rival.idxmax()})",
                "Spearman": f"{min(found['spearman']):.2f}" + (" at least" if several else ""),
                "anchors, times random": f"{statistics.mean(times):.2f}",
            }
        )
    return pd.DataFrame(rows)


# The columns of coverage that are listed, with the format of their numbers.
_COVERAGE = {
    "mean distance, tokens": ("mean_distance", ".0f"),
    "tokens in a row": ("contiguous_run", ".1f"),
    "samples that reach 90 %": ("reach", ".2f"),
    "distances by one sample": ("distances_by_one", ".3f"),
    "by all 64": ("distances_by_all", ".3f"),
    "unevenness": ("unevenness", ".2f"),
}


def _coverage_table(runs: Sequence[Run]) -> pd.DataFrame:
    """What the positions of every method cover."""
    p, rows = runs[0].params, []
    coverage = [run.table("coverage").set_index("method") for run in runs]
    for method in coverage[0].index:
        row = {"model": p.model, "T, tokens": p.target_length, "ratio": p.ratio, "seeds": _seeds(runs)}
        cells = {
            column: _plus_minus([each.loc[method, key].item() for each in coverage], spec)
            for column, (key, spec) in _COVERAGE.items()
        }
        rows.append(row | {"method": method} | cells)
    return pd.DataFrame(rows, dtype=object)


def _benchmark_table(run: Run) -> pd.DataFrame:
    """A row per stage, suite, length and filter of a run."""
    p, found = run.params, []
    for stage, rows in run.table("benchmarks").groupby("stage", sort=False):
        tasks = with_niah(rows).groupby("suite")["task"].nunique()
        for row in by_suite(rows).to_dict("records"):
            about = {"model": p.model, "method": p.method, "T, tokens": p.target_length, "seeds": p.seed}
            about |= {"stage": stage, "suite": row["suite"], "length": row["length"] or "own", "filter": row["filter"]}
            about |= {"tasks": tasks[row["suite"]], "prompts": row["prompts"], "tokens": round(row["tokens"])}
            score = "{mean:.1f} [{low:.1f}, {high:.1f}]".format(**row)
            found.append(about | {"cut": row["cut"], "score [95 %]": score})
    return pd.DataFrame(found)


def _plus_minus(values: list[float], spec: str) -> str:
    """The mean, and half of its interval over seeds if they differ."""
    mean = statistics.mean(values)
    if len(set(values)) == 1:
        return f"{mean:{spec}}"
    return f"{mean:{spec}} ± {seed_interval(values)[2] - mean:{spec}}"
