import json
import shutil
import subprocess
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest

from longrecipe import results
from longrecipe import settings as settings
from longrecipe.experiments.summary import summary
from longrecipe.results import store
from longrecipe.system.paths import results_dir, root


@pytest.fixture
def params():
    return settings.load("llama3", method="pose", seed=4, target_length=1024)


@pytest.fixture
def clone(params, tmp_path, monkeypatch):
    """An empty repository, named by the environment; params is made before, from the real one."""
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path))
    return tmp_path.resolve()


def stage_numbers(recall, niah=0.25, perplexity=30.0):
    def spread(mean, **more):
        return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05} | more

    return {
        "recall": {256: spread(0.9, prompts=400), 1024: spread(recall, prompts=200)},
        "niah_m": {256: spread(0.8, documents=100), 1024: spread(niah, documents=25)},
        "tasks": {256: {}, 1024: {"passkey": spread(recall, prompts=8)}},
        "perplexity": perplexity,
        "copying": 0.4,
    }


def test_a_run_has_a_folder_of_its_own(clone, params):
    run = settings_of(params, method="pose:n_chunks=4")
    assert results.run_dir(run).name == f"llama3-pose-n_chunks-4-1024-seed4-{run.key}"
    folder = results.run_dir(params)
    assert folder.parent == clone / "results" / "train"
    assert folder.name == f"llama3-pose-1024-seed4-{params.key}"
    assert results.run_dir(params, "ablations").parent.name == "ablations"
    assert not folder.exists()


def test_what_is_saved_comes_back(clone, params):
    table = pd.DataFrame({"step": [1, 2, 3], "loss": [4.25, 1 / 3, 1e-9]})
    numbers = {"stages": {"base": stage_numbers(0.125)}, "measured": np.float32(0.5), "count": np.int64(7)}
    folder = results.run_dir(params)
    path = results.save(
        folder, params, {"stages": {}} | numbers, seconds=12.345, tables={"loss": table, "empty": table[:0]}
    )
    assert path == folder / "metrics.json"
    assert sorted(p.name for p in folder.iterdir()) == ["empty.csv", "loss.csv", "metrics.json"]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "loss.csv"), table, rtol=1e-5)
    assert list(pd.read_csv(folder / "empty.csv").columns) == ["step", "loss"]

    record = results.load(folder)
    assert record["label"] == "measured"
    assert settings.Params(**record["params"]) == params
    assert (record["seed"], record["seconds"]) == (4, 12.3)
    assert record["numbers"]["stages"]["base"]["recall"][1024]["mean"] == 0.125
    assert (record["numbers"]["measured"], record["numbers"]["count"]) == (0.5, 7)
    assert {"python", "torch", "transformers"} <= set(record["packages"])
    assert record["device"]["kind"] in ("cpu", "cuda") and record["device"]["name"]


def test_metrics_come_last_and_only_where_all_went_well(clone, params):
    folder = results.run_dir(params)
    with pytest.raises(FileNotFoundError, match=r"metrics\.json does not exist: the run has not finished"):
        results.load(folder)
    good = pd.DataFrame({"a": [1]})
    with pytest.raises(AttributeError):
        results.save(folder, params, {}, 1.0, {"good": good, "bad": "no table"})
    with pytest.raises(TypeError):
        results.save(folder, params, {"not a number": object()}, 1.0, {"good": good})
    assert not folder.exists()


def test_saving_again_removes_the_old_metrics_first(clone, params, monkeypatch):
    folder, table = results.run_dir(params), pd.DataFrame({"a": [1]})
    results.save(folder, params, {"stages": {}}, 1.0, {"a": table})

    def full_disk(path, text):
        raise OSError("no space left")

    monkeypatch.setattr(store, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        results.save(folder, params, {"stages": {}}, 2.0, {"a": table})
    assert not (folder / "metrics.json").exists(), "not the numbers of one run next to the tables of another"


def commit(folder, *words):
    git = ["git", "-C", str(folder), "-c", "user.name=t", "-c", "user.email=t@t"]
    return subprocess.run([*git, *words], check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_is_that_of_the_code(clone, params, monkeypatch):
    folder, package = results.run_dir(params), clone / "longrecipe"
    monkeypatch.setattr(store, "PACKAGE", package)

    def recorded(**tables):
        results.save(folder, params, {"stages": {}}, 1.0, tables=tables)
        return results.load(folder)["git_commit"]

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
    # Tables of the run itself, tracked since an earlier run, do not make the code another one.
    for value in (1, 2):
        assert "dirty" not in recorded(loss=pd.DataFrame({"step": [value]}))
        commit(clone, "add", ".")
        commit(clone, "commit", "-q", "-m", "results")
    (clone / "file").write_text("new")
    commit(clone, "add", "file")
    assert recorded() == f"{commit(clone, 'rev-parse', 'HEAD')[:12]}-dirty"


def test_a_package_inside_another_repository_records_its_version(clone, params, monkeypatch):
    package = clone / "venv" / "site-packages" / "longrecipe"
    (package / "system").mkdir(parents=True)
    (package / "system" / "paths.py").write_text("")
    commit(clone, "init", "-q")
    commit(clone, "add", ".")
    commit(clone, "commit", "-q", "-m", "a project with its environment")
    monkeypatch.setattr(store, "PACKAGE", package)
    results.save(results.run_dir(params), params, {"stages": {}}, 1.0)
    assert results.load(results.run_dir(params))["git_commit"] == f"longrecipe {version('longrecipe')}"


def test_stage_table_has_a_row_a_stage():
    table = results.stage_table({"base": stage_numbers(0.1), "merged": stage_numbers(0.9, 0.75, 31.5)})
    columns = ["recall @256", "recall @1024", "NIAH(M) @256", "NIAH(M) @1024", "perplexity", "copying"]
    assert list(table.columns) == columns
    assert list(table.index) == ["base", "merged"] and table.index.name == "stage"
    assert table.loc["merged"].tolist() == [0.9, 0.9, 0.8, 0.75, 31.5, 0.4]
    assert table.loc["base", "recall @1024"] == 0.1


def test_a_saved_run_is_judged_like_a_fresh_one(clone, params):
    numbers = {"base": stage_numbers(0.01), "merged": stage_numbers(0.9)}
    results.save(results.run_dir(params), params, {"stages": numbers}, 1.0)
    saved = results.load(results.run_dir(params))["numbers"]["stages"]
    assert saved == numbers
    pd.testing.assert_frame_equal(results.stage_table(saved), results.stage_table(numbers))
    assert results.verdict(saved, params) == results.verdict(numbers, params)
    assert len(results.verdict(saved, params)) == 4


COMMITTED = sorted((root() / "results" / "train").glob("*/metrics.json"))


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.name)
def test_committed_runs_are_judged_and_tabled(path):
    record = results.load(path.parent)
    stages = record["numbers"]["stages"]
    text = json.loads(path.read_text())["numbers"]["stages"]
    assert {n for each in stages.values() for n in each["recall"]} == {
        int(n) for each in text.values() for n in each["recall"]
    }
    checks = results.verdict(stages, settings.Params(**record["params"]))
    assert checks and set(checks.values()) <= {True, False}
    kept = pd.read_csv(path.parent / "stages.csv", index_col="stage")
    table = results.stage_table(stages)
    shared = [column for column in kept if column in table]
    assert len(shared) >= 4
    pd.testing.assert_frame_equal(table.loc[kept.index, shared], kept[shared], rtol=1e-5)


# damaged files


def truncated(text):
    return text[: len(text) // 2]


def without(*keys):
    def change(text):
        record = inner = json.loads(text)
        for key in keys[:-1]:
            inner = inner[key]
        del inner[keys[-1]]
        return json.dumps(record)

    return change


def with_value(key, value):
    return lambda text: json.dumps(json.loads(text) | {key: value})


DAMAGES = {
    "empty": lambda text: "",
    "truncated": truncated,
    "a list": lambda text: "[]",
    "numbers null": with_value("numbers", None),
    "params null": with_value("params", None),
    **{
        "no " + " ".join(keys): without(*keys)
        for keys in (
            ("params",),
            ("params", "model"),
            ("seed",),
            ("device",),
            ("numbers",),
            ("numbers", "stages"),
            ("numbers", "stages", "base", "recall"),
            ("numbers", "stages", "base", "recall", "1024", "mean"),
            ("numbers", "stages", "base", "perplexity"),
        )
    },
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_left_out_with_a_warning_and_refused_by_name(damage, clone, params, caplog):
    good, bad = (settings_of(params, seed=seed) for seed in (0, 1))
    for run in (good, bad):
        results.save(results.run_dir(run), run, {"stages": {"base": stage_numbers(0.5)}}, 1.0)
    expected = summary()
    path = results.run_dir(bad) / "metrics.json"
    path.write_text(damage(path.read_text()))
    assert [record["seed"] for _, record in results.finished("train")] == [0]
    assert str(path) in caplog.text and f"delete the folder {path.parent}" in caplog.text
    with pytest.raises(ValueError, match=r"metrics\.json .*; delete the folder .*, and run it again"):
        results.load(path.parent)
    shutil.rmtree(path.parent)
    alone = summary()
    assert alone != expected and "0.500" in alone


@pytest.mark.parametrize("recorded", [True, False], ids=["rows recorded", "older run"])
@pytest.mark.parametrize("cut", [1, 8, 9, 30, 62])
def test_a_table_that_is_cut_off_is_noticed(recorded, cut, clone, params):
    folder = results.run_dir(params)
    table = pd.DataFrame({"task": ["single"] * 5, "score": [0.25] * 5})
    path = results.save(folder, params, {"stages": {}}, 1.0, {"depths": table})
    assert json.loads(path.read_text())["tables"] == {"depths": 5}
    if not recorded:
        path.write_text(without("tables")(path.read_text()))
    assert results.load(folder)["seed"] == 4
    text = (folder / "depths.csv").read_text()
    (folder / "depths.csv").write_text(text[:-cut])
    whole_lines = text[:-cut].endswith("\n") and text[:-cut]
    if whole_lines and not recorded:
        return
    with pytest.raises(ValueError, match=r"depths\.csv .*; delete the folder"):
        results.load(folder)


def test_a_table_that_is_missing_is_noticed(clone, params):
    folder = results.run_dir(params)
    results.save(folder, params, {"stages": {}}, 1.0, {"depths": pd.DataFrame({"task": []})})
    results.load(folder)
    (folder / "depths.csv").unlink()
    with pytest.raises(ValueError, match=r"depths\.csv cannot be read .*; delete the folder"):
        results.load(folder)


def test_every_file_of_the_committed_results_is_whole():
    for experiment in ("train", "grid", "front", "tokens", "positions"):
        folders = sorted(path.parent for path in (root() / "results" / experiment).glob("*/metrics.json"))
        assert [folder for folder, _ in results.finished(experiment)] == folders != []


def rows_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_summary_lists_finished_runs_only(clone, params):
    assert len(rows_of(summary())) == 2, "a head and a rule without a run"
    other = params.model_copy(update={"method": "rpes", "seed": 9})
    results.save(results.run_dir(params), params, {"stages": {"base": stage_numbers(0.1)}}, 1.0)
    stages = {"base": stage_numbers(0.1), "merged": stage_numbers(0.875, 0.5, 31.456)}
    results.save(results.run_dir(other), other, {"stages": stages}, 1.0)
    unfinished = results.run_dir(params.model_copy(update={"seed": 10}))
    unfinished.mkdir()
    head, rule, *rows = rows_of(summary())
    assert len(head) == len(rule) == 10 and head[0] == "model"
    assert [row[:6] for row in rows] == [
        ["llama3", "pose", "1024", "text", "4", "base"],
        ["llama3", "rpes", "1024", "text", "9", "base"],
        ["llama3", "rpes", "1024", "text", "9", "merged"],
    ]
    assert rows[-1][6] == "0.875 [0.825, 0.925]" and rows[-1][7].startswith("0.500 [")
    assert rows[-1][8:] == ["7 of 8", "31.46"]
    assert summary() == summary()


def test_summary_puts_seeds_of_one_setting_together(clone, params):
    for seed, recall in ((0, 0.8), (1, 0.9), (2, 0.85)):
        run = params.model_copy(update={"seed": seed})
        results.save(results.run_dir(run), run, {"stages": {"base": stage_numbers(recall)}}, 1.0)
    _, _, row = rows_of(summary())
    assert row[4] == "0, 1, 2"
    # t = 4.303 at 2 degrees of freedom, standard deviation 0.05
    assert row[6] == "0.850 [0.726, 0.974]" and row[8] == "20 of 24"


# token analyses


def settings_of(params, **changes):
    return settings.Params(**(params.model_dump() | changes))


def token_numbers(lift, spearman, times):
    def row(value, frequent=True):
        return {"lift": value, "lift_low": value - 0.5, "lift_high": value + 0.5, "frequent": frequent}

    rankings = {
        "class": {"number": row(lift), "word": row(0.5), "newline": row(1.25), "other": row(99.0, frequent=False)},
        "pos": {"NUM": row(lift - 0.25), "NOUN": row(1.0)},
    }
    density = {"anchored": {"times random": times}, "random": {"times random": 1.0}}
    return {"rankings": rankings, "stability": dict.fromkeys(rankings, spearman), "density": density, "n_tokens": 1000}


def test_the_summary_puts_seeds_of_one_token_analysis_together(clone, params):
    for seed, lift in ((0, 2.0), (1, 2.5), (2, 3.0)):
        run = settings_of(params, seed=seed)
        results.save(results.run_dir(run, "tokens"), run, token_numbers(lift, 0.9 + seed / 100, 3.0 + seed), 10)
    text = summary()
    # 2.5 plus or minus 4.303 * 0.5 / sqrt(3)
    assert (
        "| llama3 | logit | 3,000 | 0, 1, 2 | class | 2.50 [1.26, 3.74] | 1.25 (newline) | 0.90 at least | 4.00 |"
        in text
    )
    assert "| llama3 | logit | 3,000 | 0, 1, 2 | pos | 2.25 [1.01, 3.49] | 1.00 (NOUN) | 0.90 at least | 4.00 |" in text


def test_one_seed_of_a_token_analysis_has_its_own_interval(clone, params):
    run = settings_of(params, analysis_score="logprob")
    results.save(results.run_dir(run, "tokens"), run, token_numbers(2.0, 0.95, 3.0), 10)
    assert "| llama3 | logprob | 1,000 | 4 | class | 2.00 [1.50, 2.50] | 1.25 (newline) | 0.95 | 3.00 |" in summary()


def test_without_runs_the_summary_has_no_such_parts(clone):
    text = summary()
    assert "Token analysis" not in text and "Positions" not in text


def test_the_summary_lists_what_positions_cover(clone, params):
    keys = ("mean_distance", "contiguous_run", "reach", "distances_by_one", "distances_by_all", "unevenness")
    for seed, distance in ((0, 300.0), (1, 340.0)):
        run = settings_of(params, seed=seed)
        coverage = {"rpes": dict.fromkeys(keys, 0.5) | {"mean_distance": distance}, "flt": dict.fromkeys(keys, 1.0)}
        results.save(results.run_dir(run, "positions"), run, {"coverage": coverage}, 10)
    text = summary()
    assert "| llama3 | 1024 | 0.3 | 0, 1 | rpes | 320 ± 254 | 0.5 | 0.50 | 0.500 | 0.500 | 0.50 |" in text
    assert "| llama3 | 1024 | 0.3 | 0, 1 | flt | 1 | 1.0 | 1.00 | 1.000 | 1.000 | 1.00 |" in text
    assert "Token analysis" not in text


def test_finished_runs_are_found_by_their_settings(clone, params):
    runs = [settings_of(params, seed=seed) for seed in (0, 1)]
    for run in runs:
        results.save(results.run_dir(run, "tokens"), run, token_numbers(2.0, 0.9, 3.0), 10)
    (results_dir() / "tokens" / "unfinished").mkdir()
    assert [record["seed"] for _, record in results.finished("tokens", model="llama3")] == [0, 1]
    ((folder, record),) = results.finished("tokens", seed=1, model="llama3")
    assert folder == results.run_dir(runs[1], "tokens") and record["params"]["seed"] == 1
    assert results.finished("tokens", model="smollm2") == [] == results.finished("train")


def test_what_is_not_a_finite_number_is_null_in_metrics(clone, params):
    numbers = {"stages": {}, "nan": float("nan"), "list": [np.float32(0.5), np.float64("inf")], "count": np.int64(3)}
    path = results.save(results.run_dir(params), params, numbers, seconds=1)
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    assert results.load(path.parent)["numbers"] == {"stages": {}, "nan": None, "list": [0.5, None], "count": 3}


def test_an_analysis_whose_stability_is_unknown_is_listed(clone, params):
    run = settings_of(params)
    results.save(results.run_dir(run, "tokens"), run, token_numbers(2.0, float("nan"), 3.0), 10)
    assert "| class | 2.00 [1.50, 2.50] | 1.25 (newline) | nan | 3.00 |" in summary()
