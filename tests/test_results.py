"""Finished runs: what is saved comes back, damage is noticed, and the committed tables are whole and found."""

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import create_model
from runs import unpadded

from longrecipe import results, settings
from longrecipe.experiments import EXPERIMENTS
from longrecipe.experiments.collect import collect, figures
from longrecipe.experiments.summary import summary
from longrecipe.results import committed, run, store
from longrecipe.settings import schema
from longrecipe.system.paths import cache_dir, results_dir

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def params():
    return settings.load("llama3", method="pose", seed=4, target_length=1024)


@pytest.fixture
def clone(params, tmp_path, monkeypatch):
    """An empty repository and cache, named by the environment; params is made before, from the real one."""
    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path))
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path.resolve()


@pytest.fixture
def copied(clone):
    """A repository with a copy of the committed results, and an empty cache."""
    shutil.copytree(REPOSITORY / "results", clone / "results")
    return clone


def settings_of(params, **changes):
    return settings.Params(**(params.model_dump() | changes))


def stage_numbers(recall, niah=0.25, perplexity=30.0):
    def spread(mean, **more):
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05, "prompts": 200} | more

    recalls = {256: spread(0.9, prompts=400), 1024: spread(recall)}
    return {
        "recall": recalls,
        "niah_m": {256: spread(0.8), 1024: spread(niah)},
        "tasks": {
            256: {"multi-key": recalls[256]},
            1024: {"multi-key": recalls[1024], "passkey": spread(recall, prompts=8)},
        },
        "perplexity": perplexity,
        "copying": 0.4,
        "first_copy": 0.3,
    }


def save(params, seconds=1.0, **stages):
    scores = results.score_rows(stages or {"base": stage_numbers(0.5)})
    return results.save(params, "train", {"scores": scores}, seconds=seconds)


# a run in the cache


def test_run_dir_is_named_by_settings(clone, params):
    other = settings_of(params, method="pose:n_chunks=4")
    assert results.run_dir(other).name == f"llama3-pose-n_chunks-4-1024-seed4-{other.key}"
    folder = results.run_dir(params)
    assert folder.parent == clone / "cache" / "runs" / "train"
    assert folder.name == f"llama3-pose-1024-seed4-{params.key}"
    assert results.run_dir(params, "grid").parent.name == "grid"
    assert not folder.exists()


def test_saved_run_comes_back(clone, params):
    scores = results.score_rows({"base": stage_numbers(0.125), "merged": stage_numbers(1 / 3)})
    training = pd.DataFrame([("extended", 12.25, 100, float("nan"))], columns=["stage", "seconds", "n_tokens", "flops"])
    folder = results.save(
        params, "train", {"scores": scores, "training": training}, seconds=12.345, full=False, anchors=["number"]
    )
    assert [path.name for path in folder.iterdir()] == ["metrics.json"]
    found = results.load(params, "train")
    assert found.params == params and settings.Params(**found.settings) == params
    assert (found.seconds, found.full, found.anchors) == (12.3, False, ["number"])
    assert found.name == folder.name and found.key == params.key
    assert {"python", "torch", "transformers"} <= set(found.packages)
    assert found.device["kind"] in ("cpu", "cuda") and found.device["name"]
    for name, table in {"scores": scores, "training": run.typed(training, "training")}.items():
        pd.testing.assert_frame_equal(found.table(name), table, check_exact=True)
    assert found.table("gains").empty


def test_score_rows_hold_every_number_of_a_report():
    rows = results.score_rows({"base": stage_numbers(0.125)}).set_index(["stage", "length", "task"])
    assert len(rows) == 8
    assert rows.loc[("base", 1024, "passkey")].tolist()[2:] == [0.125, 0.075, 0.175, 8]
    assert rows.loc[("base", 1024, "NIAH(M)"), "mean"] == 0.25
    assert rows.loc[("base", 256, "perplexity"), "mean"] == 30.0 and pd.isna(rows.loc[("base", 256, "copying"), "low"])


def test_failed_save_leaves_no_record(clone, params):
    with pytest.raises(FileNotFoundError, match=r"metrics\.json does not exist: the run has not finished"):
        results.load(params, "train")
    with pytest.raises(ValueError, match="table scores has no column stage"):
        results.save(params, "train", {"scores": pd.DataFrame({"a": [1]})}, seconds=1.0)
    with pytest.raises(ValueError, match="has no table depths"):
        results.save(params, "grid", {"scores": results.score_rows({"base": stage_numbers(0.5)})}, seconds=1.0)
    assert not results.run_dir(params).exists() and not results.run_dir(params, "grid").exists()


def test_values_that_are_not_finite_are_null_in_the_record(clone, params):
    measured = stage_numbers(float("nan"), perplexity=float("inf"))
    text = (save(params, base=measured) / "metrics.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert results.load(params, "train").table("scores").query("task == 'perplexity'")["mean"].isna().all()


def commit(folder, *words):
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_recorded_commit_is_that_of_the_code(clone, params, monkeypatch):
    package = clone / "longrecipe"
    monkeypatch.setattr(store, "PACKAGE", package)

    def recorded():
        save(params)
        return results.load(params, "train").git_commit

    (package / "system").mkdir(parents=True)
    (package / "system" / "paths.py").write_text("")
    installed = f"longrecipe {version('longrecipe')}"
    assert recorded() == installed, "no repository"
    commit(clone, "init", "-q")
    commit(clone, "commit", "-q", "--allow-empty", "-m", "first")
    assert recorded() == installed, "a repository that does not have the code"
    commit(clone, "add", "longrecipe")
    commit(clone, "commit", "-q", "-m", "code")
    found = recorded()
    assert len(found) == 12 and commit(clone, "rev-parse", "HEAD").startswith(found)
    (clone / "file").write_text("new")
    commit(clone, "add", "file")
    assert recorded() == f"{commit(clone, 'rev-parse', 'HEAD')[:12]}-dirty"


def test_package_inside_another_repository_records_its_version(clone, params, monkeypatch):
    package = clone / "venv" / "site-packages" / "longrecipe"
    (package / "system").mkdir(parents=True)
    (package / "system" / "paths.py").write_text("")
    commit(clone, "init", "-q")
    commit(clone, "add", ".")
    commit(clone, "commit", "-q", "-m", "a project with its environment")
    monkeypatch.setattr(store, "PACKAGE", package)
    save(params)
    assert results.load(params, "train").git_commit == f"longrecipe {version('longrecipe')}"


def without(*keys):
    def change(text):
        record = inner = json.loads(text)
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return json.dumps(record)

    return change


DAMAGES = {
    "empty": lambda text: "",
    "truncated": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[]",
    "tables null": lambda text: json.dumps(json.loads(text) | {"tables": None}),
    "settings null": lambda text: json.dumps(json.loads(text) | {"settings": None}),
    "no settings": without("settings"),
    "a setting of another version": lambda text: text.replace('"settings": {', '"settings": {"unknown": 1, '),
    "no device": without("device"),
    "no scores": without("tables", "scores"),
    "a column less": without("tables", "scores", "columns", 0),
    "a value less": without("tables", "scores", "rows", 3, 4),
    "an experiment that there is not": lambda text: json.dumps(json.loads(text) | {"experiment": "x"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_run_is_left_out_with_a_warning_and_named_if_asked_for(damage, clone, params, caplog):
    good, bad = (settings_of(params, seed=seed) for seed in (0, 1))
    save(good), save(bad)
    expected = summary()
    path = results.run_dir(bad) / "metrics.json"
    path.write_text(damage(path.read_text()))
    assert [found.params.seed for found in results.finished("train")] == [0] and results.find(bad, "train") is None
    assert str(path) in caplog.text and f"delete the folder {path.parent}" in caplog.text
    with pytest.raises(ValueError, match=r"metrics\.json .*; delete the folder .*, and run it again"):
        results.load(bad, "train")
    alone = summary()
    assert alone != expected and "0.500" in alone


def test_finished_runs_are_found_by_settings(clone, params):
    for seed in (0, 1):
        save(settings_of(params, seed=seed))
    (cache_dir() / "runs" / "train" / "unfinished").mkdir()
    assert [found.params.seed for found in results.finished("train", model="llama3")] == [0, 1]
    (found,) = results.finished("train", seed=1, model="llama3")
    assert found.name == results.run_dir(settings_of(params, seed=1)).name
    assert results.finished("train", model="smollm2") == [] == results.finished("grid")


def test_runs_are_grouped_by_all_settings_but_the_seed(clone, params):
    for changes in ({"seed": 0}, {"seed": 1}, {"seed": 0, "tagger": "textblob"}, {"seed": 0, "analysis_documents": 60}):
        save_tokens(settings_of(params, **changes), 2.0, 0.9, 3.0)
    groups = results.by_setting("tokens", model="llama3")
    found = {(g[0].params.tagger, g[0].params.analysis_documents): [run.params.seed for run in g] for g in groups}
    assert found == {("hanta", params.analysis_documents): [0, 1], ("textblob", params.analysis_documents): [0]} | {
        ("hanta", 60): [0]
    }
    assert results.by_setting("tokens", tagger="spacy") == []


# the committed tables


def test_committed_results_are_few_small_files():
    listed = subprocess.run(["git", "ls-files", "results"], cwd=REPOSITORY, capture_output=True, text=True)
    paths = [REPOSITORY / name for name in listed.stdout.splitlines()]
    if not paths:
        pytest.skip("not a git checkout")
    assert len(paths) <= 60 and sum(path.stat().st_size for path in paths) <= 2_000_000


def test_committed_tables_are_written_again_bit_for_bit(copied):
    runs = committed.read()
    assert {each.experiment for each in runs} == run.EXPERIMENTS.keys()
    assert len(runs) == len({(each.experiment, each.identity) for each in runs}) > 180
    committed.write(runs)
    again = committed.read()
    for one, other in zip(runs, again, strict=True):
        assert one.params == other.params
        assert (one.name, one.anchors, one.seconds) == (other.name, other.anchors, other.seconds)
        assert one.tables.keys() == other.tables.keys()
        for name in one.tables:
            pd.testing.assert_frame_equal(one.tables[name], other.tables[name], check_exact=True)


def test_committed_readme_is_that_of_the_committed_runs(copied):
    assert (results_dir() / "README.md").read_text() == summary()


def test_committed_readme_lists_every_run(copied):
    """The seeds of all settings in its tables are as many as the runs in runs.csv, by experiment."""
    seeds = {name: {} for name in run.EXPERIMENTS}
    for row in table_rows((results_dir() / "README.md").read_text()):
        if "loss beyond" in row:
            if row["loss beyond"] != "not measured":
                # Three tables share their runs, under the name of what they vary.
                name = {"f = 1": "base", "f = 4": "RoPE rule alone"}.get(row["model"], row["model"])
                seeds["real"][f"LongRecipe, {name}" if name.endswith(" samples") and "," not in name else name] = 1
            continue
        model, length = row["model"], row.get("target") or row.get("T, tokens")
        if "weights" in row:
            if row["name"] != "RoPE rule alone":
                names = ("name", "ratio", "steps", "weights", "analysis", "text", "RoPE", "learning rates")
                key = (model, length, *(row.get(name) for name in names))
                seeds["beyond"][key] = int(row["seeds"])
        elif "step" in row:
            seeds["steps"][model, length, row["name"]] = int(row["seeds"])
        elif "suite" in row:
            seeds["bench"][model, length, row["method"], row["seeds"]] = 1
        elif "replay" in row:
            seeds["front"][model, length, row["name"], row["replay"]] = int(row["seeds"])
        elif "target" in row and row["name"] != "RoPE rule alone":
            ratio = "1.0" if row["name"] == "FLT" else row.get("ratio", "0.3")
            seeds["grid"][model, length, row["name"], ratio] = int(row["seeds"])
        elif "target" not in row:
            kind = "tokens" if "score" in row else "positions" if "ratio" in row else "train"
            seeds[kind][model, length, row.get("score"), row.get("f"), row["seeds"]] = len(row["seeds"].split(", "))
    listed = {name: sum(each.values()) for name, each in seeds.items() if each}
    assert listed == pd.read_csv(results_dir() / "runs.csv")["experiment"].value_counts().to_dict()


def table_rows(text):
    """The rows of all Markdown tables of a text, by column."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = rows_of(table)
        yield from (dict(zip(head, row, strict=True)) for row in rows)


def test_committed_figures_are_those_that_are_collected():
    names = {path.name for path in (REPOSITORY / "results" / "figures").iterdir()}
    assert names == {path.name for path in figures()}


def test_new_setting_loses_no_run(copied, monkeypatch):
    tables = [p for name in ("table1", "table2", "figure2") for p in EXPERIMENTS[name].grid()]
    grids = {"grid": tables, "front": EXPERIMENTS["fronts"].grid()}
    names = {each.name for experiment in run.EXPERIMENTS for each in results.finished(experiment)}

    class Wider(settings.Params):
        new_setting: int = 3

    committed._read.cache_clear()
    monkeypatch.setattr(run, "Params", Wider)
    monkeypatch.setitem(schema.GROUPS, "new", create_model("New", new_setting=(int, 3)))
    for experiment, grid in grids.items():
        wider = [Wider(**p.model_dump()) for p in grid]
        assert all(results.find(p, experiment) for p in wider)
        assert results.find(Wider(**grid[0].model_dump() | {"new_setting": 4}), experiment) is None
    assert names == {each.name for experiment in run.EXPERIMENTS for each in results.finished(experiment)}
    committed._read.cache_clear()


def test_key_that_is_made_otherwise_loses_no_run(copied, monkeypatch):
    monkeypatch.setattr(settings.Params, "key", property(lambda p: str(hash(p.model_dump_json()))))
    committed._read.cache_clear()
    assert all(results.find(p, "grid") for p in EXPERIMENTS["table1"].grid("llama3"))
    committed._read.cache_clear()


def test_run_of_this_machine_replaces_the_committed_one(copied):
    p = EXPERIMENTS["table1"].grid("llama3", seeds=[0])[0]
    old = results.load(p, "grid")
    count = len(results.finished("grid"))
    results.save(p, "grid", dict(old.tables), seconds=1.5)
    assert results.load(p, "grid").seconds == 1.5 and len(results.finished("grid")) == count
    (results.run_dir(p, "grid") / "metrics.json").write_text("")
    assert results.load(p, "grid").seconds == old.seconds, "a damaged one does not"


@pytest.mark.slow
def test_collect_writes_tables_figures_and_readme(copied, caplog):
    p = settings.load("llama3", seed=8, target_length=1024)
    folder = save(p, base=stage_numbers(0.125))
    default = results.run_dir(settings.load("llama3"), "tokens") / "figures"
    default.mkdir(parents=True)
    (default / "figure4.png").write_bytes(b"new")
    before = len(committed.read())
    collect()
    shutil.rmtree(folder)
    assert len(committed.read()) == before + 1
    found = results.load(p, "train")
    assert found.name == folder.name and found.table("scores")["mean"].iloc[2] == 0.125
    assert (results_dir() / "figures" / "figure4.png").read_bytes() == b"new"
    assert "| 8 | base | 0.125 [0.075, 0.175] |" in unpadded((results_dir() / "README.md").read_text())


def test_collect_works_without_results(clone, params):
    save(params)
    collect()
    assert len(committed.read()) == 1 and "0.500" in unpadded((results_dir() / "README.md").read_text())


@pytest.mark.parametrize("name", ["runs.csv", "settings.json", "scores.parquet", "gains.parquet"])
@pytest.mark.parametrize("how", ["missing", "empty", "cut"])
def test_damaged_committed_table_is_named_with_the_fix(name, how, copied):
    path = results_dir() / name
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if how == "cut" else b"")
    with pytest.raises(ValueError, match=rf"{name}.*restore it with `git checkout -- results`"):
        results.finished("grid")


def test_rows_that_are_missing_from_a_committed_table_are_noticed(copied):
    path = results_dir() / "scores.parquet"
    table = pd.read_parquet(path)
    table[:-1].to_parquet(path)
    with pytest.raises(ValueError, match=r"scores\.parquet has \d+ rows of run .* instead of \d+.*git checkout"):
        results.finished("train")
    table.to_parquet(path)
    index = results_dir() / "runs.csv"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match=r"runs\.csv is damaged: it lacks run"):
        results.finished("train")


# the summary


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_summary_lists_finished_runs_only(clone, params):
    assert rows_of(summary()) == []
    other = params.model_copy(update={"method": "rpes", "seed": 9})
    save(params, base=stage_numbers(0.1))
    save(other, base=stage_numbers(0.1), merged=stage_numbers(0.875, 0.5, 31.456))
    results.run_dir(params.model_copy(update={"seed": 10})).mkdir()
    head, rule, *rows = rows_of(summary())
    assert len(head) == len(rule) == 11 and head[0] == "model"
    assert [row[:7] for row in rows] == [
        ["llama3", "pose", "1024", "text", "4", "4", "base"],
        ["llama3", "rpes", "1024", "text", "4", "9", "base"],
        ["llama3", "rpes", "1024", "text", "4", "9", "merged"],
    ]
    assert rows[-1][7] == "0.875 [0.825, 0.925]" and rows[-1][8].startswith("0.500 [")
    assert rows[-1][9:] == ["7 of 8", "31.46"]
    assert summary() == summary()


def test_summary_shows_a_base_that_was_not_asked_beyond_its_window(clone, params):
    base = stage_numbers(0.1)
    base |= {name: {256: base[name][256]} for name in ("recall", "niah_m", "tasks")}
    save(params, base=base, merged=stage_numbers(0.875, 0.5, 31.456))
    _, _, *rows = rows_of(summary())
    assert rows[0][6:] == ["base", "", "", "", rows[0][-1]] and float(rows[0][-1]) > 0
    assert rows[1][7] == "0.875 [0.825, 0.925]"


def test_summary_puts_seeds_of_one_setting_together(clone, params):
    for seed, recall in ((0, 0.8), (1, 0.9), (2, 0.85)):
        save(params.model_copy(update={"seed": seed}), base=stage_numbers(recall))
    _, _, row = rows_of(summary())
    assert row[5] == "0, 1, 2"
    # t = 4.303 at 2 degrees of freedom, standard deviation 0.05
    assert row[7] == "0.850 [0.726, 0.974]" and row[9] == "20 of 24"


def save_tokens(params, lift, spearman, times, **more):
    rows = [
        ("class", "number", lift, True),
        ("class", "word", 0.5, True),
        ("class", "newline", 1.25, True),
        ("class", "other", 99.0, False),
        ("pos", "NUM", lift - 0.25, True),
        ("pos", "NOUN", 1.0, True),
    ]
    rankings = pd.DataFrame(rows, columns=["by", "type", "lift", "frequent"]).assign(positions="all", count=1)
    rankings = rankings.assign(lift_low=rankings["lift"] - 0.5, lift_high=rankings["lift"] + 0.5)
    tables = {
        "rankings": rankings.assign(**{name: 0.5 for name in run.TABLES["rankings"] if name not in rankings}),
        "stability": pd.DataFrame({"by": ["class", "pos"], "positions": "all", "spearman": spearman, "n_tokens": 1000}),
        "densities": pd.DataFrame({"selection": ["anchored", "random"], "times random": [times, 1.0]}),
        "shares": run.empty("shares"),
    }
    tables["densities"] = tables["densities"].assign(**{"anchors per 1,000 tokens": 1.0, "segments kept": 1.0})
    return results.save(params, "tokens", tables | more, seconds=10)


def test_summary_puts_seeds_of_one_token_analysis_together(clone, params):
    for seed, lift in ((0, 2.0), (1, 2.5), (2, 3.0)):
        save_tokens(settings_of(params, seed=seed), lift, 0.9 + seed / 100, 3.0 + seed)
    text = unpadded(summary())
    # 2.5 plus or minus 4.303 * 0.5 / sqrt(3)
    common = f"| llama3 | logit | embedded | {params.analysis_documents} | 3,000 | 0, 1, 2 |"
    assert f"{common} class | 2.50 [1.26, 3.74] | 1.25 (newline) | 0.90 at least | 4.00 |" in text
    assert f"{common} pos, hanta | 2.25 [1.01, 3.49] | 1.00 (NOUN) | 0.90 at least | 4.00 |" in text


def test_rises_of_old_analyses_are_missing_and_of_new_ones_committed(clone, params):
    save_tokens(params, 2.0, 0.9, 3.0)
    assert len(results.joined(results.finished("tokens"), "rises")) == 0
    rises = pd.DataFrame({"type": ["NUM"], "inside": [0.0], "beyond": [2.0], "rise": [2.0]})
    rises = rises.assign(rise_low=1.5, rise_high=float("nan"))
    save_tokens(settings_of(params, seed=1), 2.0, 0.9, 3.0, rises=rises)
    results.collect()
    (row,) = results.joined(results.finished("tokens"), "rises").to_dict("records")
    assert (row["seed"], row["type"], row["rise"], row["rise_low"]) == (1, "NUM", 2.0, 1.5)


def test_one_seed_of_a_token_analysis_has_its_own_interval(clone, params):
    save_tokens(settings_of(params, analysis_score="logprob"), 2.0, 0.95, 3.0)
    row = f"| llama3 | logprob | embedded | {params.analysis_documents} | 1,000 | 4 | class | 2.00 [1.50, 2.50] |"
    assert f"{row} 1.25 (newline) | 0.95 | 3.00 |" in unpadded(summary())


def test_analysis_of_unknown_stability_is_listed(clone, params):
    save_tokens(params, 2.0, float("nan"), 3.0)
    assert "| class | 2.00 [1.50, 2.50] | 1.25 (newline) | nan | 3.00 |" in unpadded(summary())


def test_summary_without_runs_has_no_tables(clone):
    text = summary()
    assert "## " not in text and "runs.csv" in text


def test_summary_lists_what_positions_cover(clone, params):
    for seed, distance in ((0, 300.0), (1, 340.0)):
        columns = dict.fromkeys(list(run.TABLES["coverage"])[1:], pd.Series([0.5, 1.0]))
        table = pd.DataFrame({"method": ["rpes", "flt"]} | columns)
        table.loc[0, "mean_distance"] = distance
        results.save(settings_of(params, seed=seed), "positions", {"coverage": table}, seconds=10)
    text = unpadded(summary())
    assert "| llama3 | 1024 | 0.3 | 0, 1 | rpes | 320 ± 254 | 0.5 | 0.50 | 0.500 | 0.500 | 0.50 |" in text
    assert "| llama3 | 1024 | 0.3 | 0, 1 | flt | 1 | 1.0 | 1.00 | 1.000 | 1.000 | 1.00 |" in text
    assert "Token analysis" not in text


def test_stage_table_has_a_row_per_stage():
    table = results.stage_table({"base": stage_numbers(0.1), "merged": stage_numbers(0.9, 0.75, 31.5)})
    columns = ["recall @256", "recall @1024", "NIAH(M) @256", "NIAH(M) @1024", "perplexity", "copying"]
    assert list(table.columns) == columns
    assert list(table.index) == ["base", "merged"] and table.index.name == "stage"
    assert table.loc["merged"].tolist() == [0.9, 0.9, 0.8, 0.75, 31.5, 0.4]
    assert np.isclose(table.loc["base", "recall @1024"], 0.1)
