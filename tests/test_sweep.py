import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from longrecipe import experiments, recipe, results
from longrecipe import settings as params
from longrecipe.cli import main
from longrecipe.cost import training_flops
from longrecipe.evaluate import NIAH_M, OTHERS
from longrecipe.experiments import grids, runner
from longrecipe.models.loading import load
from longrecipe.recipe import cache
from longrecipe.system.files import BusyError
from longrecipe.train import Trained

REPOSITORY = Path(__file__).resolve().parents[1]
SHORT = {
    "target_length": 512,
    "probe_window": 272,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "analysis_documents": 5,
    "n_documents": 4,
    "extend_steps": 6,
    "extend_batch_size": 2,
    "replay_steps": 4,
    "replay_batch_size": 2,
    "warmup_steps": 1,
    "save_steps": 2,
    "eval_documents": 2,
    "precision": "fp32",
}


@pytest.fixture
def own_root(tmp_path, monkeypatch):
    """Results and cache of its own, so that a test's runs stay out of the repository."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path / "root"))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "params").symlink_to(REPOSITORY / "params")
    return tmp_path / "root"


@pytest.fixture
def quick_text(corpus, monkeypatch):
    """The text of the session, less to measure perplexity on."""
    short = replace(corpus, held_out=corpus.held_out[:20_000])
    monkeypatch.setattr("longrecipe.data.corpus.load_english", lambda tokenizer, planted: short)


# grids


def settings(grid, *names):
    return [tuple(getattr(p, name) for name in names) for p in grid]


def test_methods_holds_every_method_at_every_target(own_root):
    grid = experiments.methods()
    expected = {
        (model, target, seed, method)
        for model in ("llama3", "mistral", "qwen2")
        for target in (2560, 4096)
        for seed in range(5 if model == "llama3" else 3)
        for method in ("none", "flt", "rpes", "pose", "longrecipe")
    }
    found = settings(grid, "model", "target_length", "seed", "method")
    assert len(found) == len({p.key for p in grid}) == 110 and set(found) == expected
    assert (
        settings(experiments.methods("qwen2", [7], [512], eval_documents=3), "model", "seed", "eval_documents")
        == [("qwen2", 7, 3)] * 5
    )
    # All else is as the params file says.
    assert params.load("mistral", method="pose", seed=1, target_length=2560) in grid


def test_ablation_takes_one_part_away_at_a_time(own_root):
    found = settings(experiments.ablation(seeds=[4]), "method", "selection", "seed")
    assert sorted(found) == [
        ("longrecipe", "anchored", 4),
        ("longrecipe", "first", 4),
        ("longrecipe", "random", 4),
        ("longrecipe:max_gap=0", "anchored", 4),
        ("longrecipe:max_gap=0", "first", 4),
        ("none", "anchored", 4),
        ("pose", "anchored", 4),
    ]
    assert len(set(experiments.ablation())) == 21 and {p.model for p in experiments.ablation()} == {"llama3"}


def test_ratio_trains_each_share_with_and_without_skips_and_the_whole(own_root):
    found = settings(experiments.ratio(seeds=[0]), "method", "ratio", "train_length")
    shares = {0.05: 204, 0.1: 409, 0.2: 819, 0.3: 1228, 0.4: 1638}
    both = [("longrecipe", *share) for share in shares.items()] + [
        ("longrecipe:max_gap=0", *share) for share in shares.items()
    ]
    assert sorted(found) == sorted([*both, ("flt", 0.3, 4096)])
    assert len(set(experiments.ratio())) == 33


def test_front_trains_every_method_and_other_replays(own_root):
    grid, default = experiments.front(seeds=[6]), params.load("llama3", seed=6)
    found = settings(grid, "method", "replay_kl_weight", "replay_long_share", "replay_steps")
    usual = (default.replay_kl_weight, default.replay_long_share, default.replay_steps)
    kl_weight, share, steps = usual
    assert sorted(found) == sorted(
        [(method, *usual) for method in ("flt", "rpes", "pose", "longrecipe")]
        + [("longrecipe", 0.0, share, steps), ("longrecipe", kl_weight, 0.0, steps), ("longrecipe", 0.0, 0.0, steps)]
        + [("longrecipe", kl_weight, share, others) for others in (40, 80)]
    )
    assert len(set(experiments.front())) == 27 and default in grid


def test_what_two_grids_ask_for_is_one_run(own_root):
    tables = experiments.methods("llama3", [0, 1, 2]), experiments.ablation(), experiments.ratio()
    every = [p for grid in tables for p in grid]
    # 3 seeds: none, PoSE and LongRecipe are in two grids, LongRecipe in three; FLT and its contiguous control in two.
    assert (len(every), len(set(every))) == (84, 84 - 3 * 5 - 3)
    assert len({p.key for p in every}) == len({experiments.folder_of(p) for p in every}) == len(set(every))
    shared = [set(a) & set(b) for a, b in combinations(tables, 2)]
    assert [{p.method for p in each} for each in shared] == [
        {"none", "pose", "longrecipe"},
        {"flt", "longrecipe"},
        {"longrecipe", "longrecipe:max_gap=0"},
    ]


def test_the_contiguous_control_trains_on_the_same_samples(own_root, quick_text):
    p = params.load("llama3", method="longrecipe", selection="random", **SHORT)
    skipping = recipe.prepare(p)
    control = skipping.varied(method=grids.CONTIGUOUS)
    # The same anchors too, where sentences are taken by them.
    assert control.folder("analysis") == skipping.folder("analysis")
    assert control.folder("extend") != skipping.folder("extend")
    rows, same = (run.stage_one_set(None) for run in (skipping, control))
    assert rows["input_ids"] == same["input_ids"] and rows["key"] == same["key"]
    jumping, contiguous = (run.collator()(list(rows))["position_ids"] for run in (skipping, control))
    assert (contiguous == np.arange(153)).all() and (jumping.diff() > 1).any(dim=1).all()


# what runs, and what does not


@pytest.fixture
def quick(own_root, monkeypatch):
    """Runs that finish at once; returns what ran and how."""
    ran = []

    def one(p, folder, full=True):
        ran.append((p, "full" if full else "lean"))
        results.save(folder, p, {"full": full, "stages": {}}, 0.0)

    def merges(p, folder):
        ran.append((p, "merges"))
        results.save(folder, p, {"merges": []}, 0.0)

    monkeypatch.setattr(runner, "one", one)
    monkeypatch.setattr(runner, "merges", merges)
    return ran


def test_finished_runs_are_skipped_and_force_repeats_them(quick):
    grid = experiments.methods("llama3", [0, 1], [512])
    first, second = grid[:5], grid[5:]
    folders = experiments.run([*first, first[0]])
    assert quick == [(p, "full") for p in first] and folders == [results.run_dir(p, "grid") for p in first]
    assert experiments.run(grid) == [experiments.folder_of(p) for p in grid]
    assert quick == [(p, "full") for p in first + second] and len(results.finished("grid")) == 10
    # A folder without metrics.json is of a run that was cut off.
    (folders[3] / "metrics.json").unlink()
    assert [experiments.is_finished(p) for p in first] == [True, True, True, False, True]
    experiments.run(iter(grid))
    assert quick[10:] == [(first[3], "full")]
    trained = [recipe.prepare(p).folder(stage) / "model" for p in first[:2] for stage in ("extend", "replay")]
    for folder in trained:
        folder.mkdir(parents=True)
    experiments.run(first[1:2] + first[:1] + first[2:], force=True)
    assert not any(folder.exists() for folder in trained)
    quick[11:] = [quick[12], quick[11], *quick[13:]]
    assert quick[11:] == [(p, "full") for p in first]


def test_a_damaged_run_is_repeated(quick, caplog):
    grid = experiments.methods("llama3", [0], [512])[:3]
    folders = experiments.run(grid)
    (folders[0] / "metrics.json").write_text("")
    metrics = folders[1] / "metrics.json"
    metrics.write_text(metrics.read_text()[:100])
    assert [experiments.is_finished(p) for p in grid] == [False, False, True]
    assert f"{metrics} is not readable JSON" in caplog.text and f"delete the folder {folders[1]}" in caplog.text
    experiments.run(grid)
    assert quick[3:] == [(p, "full") for p in grid[:2]]
    assert all(experiments.is_finished(p) for p in grid)


def test_two_sweeps_at_a_time_are_refused(quick, monkeypatch, capsys):
    def again(p, folder, full):
        main(["sweep", "ablation", "--seeds", "0"])

    monkeypatch.setattr(runner, "one", again)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    with pytest.raises(SystemExit) as stop:
        experiments.run(experiments.methods("llama3", [0], [512]))
    said = capsys.readouterr().err
    assert stop.value.code == 1 and "runs a sweep" in said and "The next sweep resumes.\n" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ablation", "-p", "ratio", "2"], "ratio = '2'"),
        (["ablation", "-p", "method", "pose"], "-p method: the grid sets it"),
        (["methods", "--models", "gpt9"], "model = 'gpt9' has no params file"),
    ],
)
def test_settings_that_cannot_be_run_exit_with_a_message(words, message, quick, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *words])
    said = capsys.readouterr().err
    assert stop.value.code == 1 and message in said and quick == []


def test_a_lean_run_does_not_stand_for_a_full_one(quick):
    lean, full = experiments.ablation(seeds=[0])[1:3], experiments.ablation(seeds=[0])[2:4]
    experiments.run(lean, "lean")
    experiments.run(full)
    assert quick == [(lean[0], "lean"), (lean[1], "lean"), (full[0], "full"), (full[1], "full")]
    # But a full one has all that is asked of a lean one.
    experiments.run([*lean, *full], "lean")
    assert len(quick) == 4
    assert [experiments.is_finished(p, how) for p in (lean[0], full[0]) for how in ("lean", "full")] == [
        True,
        False,
    ] + [True] * 2


def test_merges_are_an_experiment_of_their_own(quick):
    grid = experiments.front(seeds=[0], target_length=512)[:2]
    folders = experiments.run(grid, "merges")
    assert folders == [results.run_dir(p, "front") for p in grid] == [experiments.folder_of(p, "merges") for p in grid]
    assert [record["numbers"] for _, record in results.finished("front")] == [{"merges": []}] * 2
    # The same settings have not been run for the tables.
    assert experiments.run(grid, "lean") == [results.run_dir(p, "grid") for p in grid]
    assert quick == [(p, how) for how in ("merges", "lean") for p in grid]


def test_a_failing_run_leaves_the_finished_ones_and_the_lock_free(quick, monkeypatch):
    grid, one = experiments.methods("llama3", [0], [512]), runner.one

    def fail(p, folder, full):
        if p.method == "rpes":
            raise OSError("no space left")
        one(p, folder, full)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "one", fail)
        with pytest.raises(OSError, match="no space"):
            experiments.run(grid)
    assert [p.method for p, _ in quick] == ["none", "flt"]
    experiments.run(grid)
    assert [p.method for p, _ in quick[2:]] == ["rpes", "pose", "longrecipe"]


def test_progress_tells_runs_and_minutes_left(quick, monkeypatch, capsys, caplog):
    # The clock is read at the start and before each run; runs take 10 minutes.
    readings = [0.0, 0.0, 600.0, 1200.0, 1800.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: readings.pop(0)))
    caplog.set_level("INFO", "longrecipe.experiments")
    grid = [params.load("llama3", method="pose", seed=seed) for seed in range(4)]
    experiments.run(grid[:1] + grid)
    names = [experiments.folder_of(p).name for p in grid]
    expected = [
        f"0 of 4 runs, time left not known; now {names[0]}",
        f"1 of 4 runs, 30 minutes left; now {names[1]}",
        f"2 of 4 runs, 20 minutes left; now {names[2]}",
        f"3 of 4 runs, 10 minutes left; now {names[3]}",
    ]
    shown = capsys.readouterr().err
    assert all(text in shown for text in expected) and "100%" in shown
    assert [record.getMessage().replace("runs done", "runs") for record in caplog.records] == expected


def test_longer_runs_weigh_more():
    weigh = lambda method, **changes: runner._weight(params.load("llama3", method=method, **changes), "full")  # noqa: E731
    assert weigh("flt") > 3 * weigh("longrecipe") > 3 * weigh("longrecipe", ratio=0.1)
    assert weigh("pose") == weigh("longrecipe") > weigh("longrecipe", target_length=2560)


# the command line


def test_a_dry_run_lists_and_runs_nothing(quick, capsys):
    grid = experiments.ablation(seeds=[3])
    experiments.run(grid[1:3], "lean")
    del quick[:]
    main(["sweep", "ablation", "--seeds", "3", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    states = ["left", "finished", "finished", *["left"] * 4]
    assert [line.split() for line in lines] == [
        [state, experiments.folder_of(p).name] for state, p in zip(states, grid, strict=True)
    ]
    # The other grid asks more of the runs that both hold.
    main(["sweep", "methods", "--models", "llama3", "--seeds", "3", "--targets", "4096", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["left"] * 5 and experiments.folder_of(grid[1]).name in lines[3]
    assert quick == [] and len(results.finished("grid")) == 2


def test_the_command_line_names_grid_models_seeds_and_targets(quick, monkeypatch):
    asked = []
    monkeypatch.setattr(runner, "run", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    main(["sweep", "methods", "--models", "llama3", "qwen2", "--seeds", "5", "6", "--targets", "1024"])
    main(["sweep", "methods"])
    main(["sweep", "ratio", "--models", "mistral", "--force"])
    main(["sweep", "ablation", "--seeds", "0"])
    main(["sweep", "front", "--seeds", "0"])
    main(["sweep", "methods", "--scale", "small", "--models", "smollm2", "-p", "profile", "cpu", "-p", "ratio", "0.2"])
    *asked, real = asked
    assert real[0] == experiments.methods("smollm2", scale="small", profile="cpu", ratio=0.2)
    assert asked == [
        (experiments.methods(["llama3", "qwen2"], [5, 6], [1024]), "full", False),
        (experiments.methods(), "full", False),
        (experiments.ratio("mistral"), "lean", True),
        (experiments.ablation(seeds=[0]), "lean", False),
        (experiments.front(seeds=[0]), "merges", False),
    ]


def test_a_notebook_names_its_model_seeds_and_settings(own_root):
    grid = experiments.from_notebook("ratio", {"model": "llama3", "n_seeds": None, "target_length": None, "_": 3})
    assert grid == experiments.ratio("llama3", range(3))
    both = experiments.from_notebook("methods", {"model": "llama3", "n_seeds": None})
    assert both == experiments.methods("llama3", range(5)) and both[0].target_length == 2560
    assert experiments.from_notebook("ablation", {"model": "mistral"}) == experiments.ablation("mistral", range(3))
    for targets in (2560, 2560.0, [2560], "[2560]"):
        assert experiments.from_notebook("methods", {"model": "qwen2", "targets": targets}) == experiments.methods(
            "qwen2", None, 2560
        )
    # What a notebook sets itself is no parameter of it.
    assert experiments.from_notebook("methods", {"model": "qwen2"}, targets=2560) == experiments.methods(
        "qwen2", None, 2560
    )
    with pytest.raises(params.ParamsError, match="unknown parameter 'targets'"):
        experiments.from_notebook("methods", {"model": "qwen2", "targets": 512}, targets=2560)
    own = own_root / "own.yaml"
    own.write_text("scale: mini\nmodel: llama3\ntarget_length: 1024\n")
    own_grid = experiments.from_notebook("methods", {"model": str(own), "scale": "small", "n_seeds": 2})
    assert {(p.scale, p.target_length) for p in own_grid} == {("mini", 1024)}, "the file names its scale and its target"
    named = {"model": "qwen2", "n_seeds": 2, "eval_documents": 5, "np": np}
    assert experiments.from_notebook("front", named) == experiments.front("qwen2", range(2), eval_documents=5)


@pytest.mark.parametrize(
    ("grid", "changes", "message"),
    [
        ("ablation", {"n_seeds": 1}, "n_seeds = 1: give 2 seeds or more"),
        ("ablation", {"n_seeds": "3"}, "n_seeds = '3': give 2 seeds or more"),
        ("ablation", {"seed": 3}, "seed: the grid sets it"),
        ("ablation", {"method": "pose"}, "method: the grid sets it"),
        ("ablation", {"eval_document": 3}, "unknown parameter 'eval_document'. Did you mean 'eval_documents'"),
        ("methods", {"target_length": 2560, "seed": 1}, "seed, target_length: the grid sets it"),
        ("ablation", {"model": "gpt9"}, "model = 'gpt9' has no params file"),
        ("ablation", {"model": ["llama3", "qwen2"]}, "has no params file"),
        ("ablation", {"seeds": 3}, "unknown parameter 'seeds'. Allowed are model, n_seeds, profile"),
        ("ablation", {"targets": 2560}, "unknown parameter 'targets'"),
        ("methods", {"models": "qwen2"}, "unknown parameter 'models'. Allowed are model, n_seeds, targets"),
        ("methods", {"targets": []}, r"targets = \[\]: a length in tokens"),
        ("methods", {"targets": "[2560"}, r"targets = '\[2560': a length in tokens"),
        ("methods", {"targets": True}, "targets = True: a length in tokens"),
        ("methods", {"targets": 2560.5}, "targets = 2560.5: a length in tokens"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_notebook_is_told_what_a_grid_cannot_take(grid, changes, message, own_root):
    with pytest.raises(params.ParamsError, match=message):
        experiments.from_notebook(grid, {"model": "llama3"} | changes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ratio", "--targets", "2560"], r"--targets is for the grid methods; .* target of the params file"),
        (["ablation", "--targets", "2560", "--dry-run"], r"--targets is for the grid methods"),
        (["everything"], r"invalid choice: .everything.*methods.*ablation.*ratio"),
        (["methods", "--seeds", "one"], r"--seeds: invalid int value: .one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_command_line_refuses_what_it_cannot_do(words, message, quick, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *words])
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err) and quick == []


# one run


def test_the_untrained_base_is_measured_and_asked_everything_inside_its_window(own_root, quick_text):
    p = params.load("llama3", method="none", **SHORT)
    # Its run is the same for every grid.
    experiments.one(p, own_root / "none", full=False)
    record = results.load(own_root / "none")
    stages = record["numbers"]["stages"]
    assert list(stages) == ["base", "RoPE rule alone", "base, inside"] and record["numbers"]["full"]
    assert record["params"] == p.model_dump() and record["seconds"] > 0
    niah = set(NIAH_M)
    asked = {name: {n: set(tasks) for n, tasks in measured["tasks"].items()} for name, measured in stages.items()}
    assert asked == {
        "base": {256: niah | {"single"}, 512: niah | {"single"}},
        "RoPE rule alone": {256: niah | {"single"}, 512: niah | {"single"}},
        "base, inside": {256: niah | set(OTHERS)},
    }
    assert stages["base"]["perplexity"] < stages["RoPE rule alone"]["perplexity"]
    depths = pd.read_csv(own_root / "none" / "depths.csv")
    assert set(depths["stage"]) == set(stages) and set(depths["depth"]) == {0, 1, 2, 3, 4}
    assert depths["mean"].between(0, 1).all()
    # Every prompt that has a depth is counted once.
    for length in (256, 512):
        rows = depths.query("stage == 'base' and task == 'multi-key' and length == @length")
        recall = stages["base"]["recall"][length]
        assert rows["count"].sum() == recall["prompts"] >= 8
        assert np.average(rows["mean"], weights=rows["count"]) == pytest.approx(recall["mean"], abs=1e-5)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("kl_weight", [0.0, 4.0])
def test_computation_is_counted_by_the_length_of_the_samples(ratio, kl_weight, own_root, quick_text, monkeypatch):
    # At 0.5 of 512 tokens long samples are as long as short ones, and must be counted all the same.
    changes = {"replay_steps": 10, "replay_long_share": 0.2, "replay_kl_weight": kl_weight}
    p = params.load("llama3", method="pose", ratio=ratio, **SHORT | changes)
    R, n = recipe.prepare(p), p.train_length
    base = R.base()
    flops = lambda tokens, length: training_flops(base.config, tokens, length)  # noqa: E731
    counts = {"extended": (12 * n, 0), "replayed": (4 * n, 16 * 256)}
    stages = {name: Trained(name, own_root, [], 12.5, sum(each), None) for name, each in counts.items()}
    monkeypatch.setattr(recipe.Recipe, "stage_one_set", lambda self, analysis: None)
    monkeypatch.setattr(recipe.Recipe, "extend", lambda self, dataset: stages["extended"])
    monkeypatch.setattr(recipe.Recipe, "replay", lambda self, extended, analysis: stages["replayed"])
    training = runner._train(R)[0]["training"]
    assert set(training) == set(counts)
    for name, (long, short) in counts.items():
        # Where the model is kept near the original, that one reads the short text as well, forward only.
        read = short * (4 / 3 if kl_weight else 1)
        assert training[name]["flops"] == pytest.approx(flops(long, n) + flops(read, 256))
        assert (training[name]["seconds"], training[name]["n_tokens"]) == (12.5, long + short)


def test_the_token_analysis_is_counted_and_timed_where_it_was_made(own_root, quick_text):
    R = recipe.prepare(params.load("llama3", **SHORT))
    first = runner._train(R)[0]["training"]["token analysis"]
    again = runner._train(R.varied(merge_weight=0.1))[0]["training"]["token analysis"]
    assert first == again and first["seconds"] > 0
    base, length = R.base(), SHORT["probe_window"]
    flops = lambda tokens: training_flops(base.config, tokens, length)  # noqa: E731
    assert first["flops"] == pytest.approx(flops(4 * length) + 2 / 3 * flops(5 * length))
    # Found made by something else: the time is not known.
    (R.folder("analysis") / "seconds.json").unlink()
    assert runner._train(R)[0]["training"]["token analysis"]["seconds"] is None


def test_merges_of_one_training_are_measured_by_weight_and_rule(own_root, quick_text, monkeypatch):
    asked = []

    def measure(R, network, **options):
        asked.append(options)
        state = network.state_dict()
        sums = {part: state[f"model.layers.0.self_attn.{part}_proj.weight"].sum().item() for part in "qv"}
        numbers = {"recall": {}, "niah_m": {}, "tasks": {}, "perplexity": sums["q"], "copying": sums["v"]}
        return SimpleNamespace(numbers=lambda: numbers)

    monkeypatch.setattr(recipe.Recipe, "measure", measure)
    p = params.load("llama3", method="pose", **SHORT)
    experiments.merges(p, own_root / "front")
    numbers = results.load(own_root / "front")["numbers"]
    rows = {(row["rule"], row["weight"]): row["numbers"] for row in numbers["merges"]}
    expected = [("uniform", w) for w in (0.0, 0.25, 0.5, 0.75)] + [("spare_qk", w) for w in (0.25, 0.5, 0.75)]
    assert list(rows) == expected and asked == [{"share": 0.4, "lengths": [256, 512]}] * 7
    (replayed,), base = (own_root.parent / "cache").glob("*/replay/model"), recipe.prepare(p).base()
    queries, values = (
        [
            network.state_dict()[f"model.layers.0.self_attn.{part}_proj.weight"].sum().item()
            for network in (base, load(replayed))
        ]
        for part in "qv"
    )
    for (rule, weight), row in rows.items():
        query, value = row["perplexity"], row["copying"]
        assert value == pytest.approx(weight * values[0] + (1 - weight) * values[1], abs=1e-3)
        spared = 0.0 if rule == "spare_qk" else weight
        assert query == pytest.approx(spared * queries[0] + (1 - spared) * queries[1], abs=1e-3)
    assert abs(queries[0] - queries[1]) > 0.02 and abs(values[0] - values[1]) > 0.02
    assert list(numbers["training"]) == ["extended", "replayed"] and numbers["anchors"] == []


# kill and go on

KILLED_SWEEP = """
import json, sys, time
from dataclasses import replace
from longrecipe import experiments, settings as params
from longrecipe.data import corpus, samples
from longrecipe.recipe import cache

load_english, text = corpus.load_english, []

def once(tokenizer, planted):
    if not text:
        whole = load_english(tokenizer, planted=planted)
        text.append(replace(whole, held_out=whole.held_out[:20_000]))
    return text[0]

corpus.load_english = once
# Files that are edited while tests run would be other code.
cache.code_hash = lambda *entries: "00000000"
make_batch, calls = samples.Collator.__call__, 0

def stuck(self, rows):
    global calls
    calls += self.method.text == "selected"
    if calls > 4:
        time.sleep(7200)
    return make_batch(self, rows)

samples.Collator.__call__ = stuck
experiments.run([params.load("llama3", **changes) for changes in json.loads(sys.argv[1])], "lean")
"""


def without_seconds(numbers):
    stages = {name: {k: v for k, v in each.items() if k != "seconds"} for name, each in numbers["training"].items()}
    return numbers | {"training": stages}


def test_a_killed_sweep_goes_on_and_ends_as_one_in_one_go(own_root, quick_text, tmp_path, monkeypatch, caplog):
    changes = [{"method": method, **SHORT} for method in ("pose", "longrecipe")]
    grid = [params.load("llama3", **each) for each in changes]
    pose, longrecipe = folders = [results.run_dir(p, "grid") for p in grid]
    monkeypatch.setattr(cache, "code_hash", lambda *entries: "00000000")
    words = [sys.executable, "-c", KILLED_SWEEP, json.dumps(changes)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(words, cwd=REPOSITORY, env=os.environ, stdout=output, stderr=output)
        try:
            # Step 2 of the second run's extension; the collator then hangs, so that the sweep cannot end by itself.
            while not list(
                (tmp_path / "cache").glob("*longrecipe*/extend/checkpoints/checkpoint-2/trainer_state.json")
            ):
                assert process.poll() is None, (tmp_path / "output").read_text()
                time.sleep(0.05)
            with pytest.raises(
                BusyError,
                match=rf"process {process.pid} runs a sweep \(.*results.*\): wait for it, or stop it\. The next",
            ):
                experiments.run(grid)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert (pose / "metrics.json").is_file() and not longrecipe.exists()
    before = (pose / "metrics.json").read_bytes()

    caplog.set_level("INFO", "longrecipe")
    assert experiments.run(grid, "lean") == folders
    assert "0 of 1 runs done" in caplog.text and "extend resumed from step 2" in caplog.text
    assert (pose / "metrics.json").read_bytes() == before
    killed = [(results.load(f)["numbers"], (f / "depths.csv").read_bytes()) for f in folders]

    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "other"))
    experiments.run(grid, "lean", force=True)
    whole = [(results.load(f)["numbers"], (f / "depths.csv").read_bytes()) for f in folders]
    assert (pose / "metrics.json").read_bytes() != before
    for (numbers, depths), (others, other_depths) in zip(killed, whole, strict=True):
        assert without_seconds(numbers) == without_seconds(others) and depths == other_depths
        trained = numbers["training"]["extended"]
        assert trained["n_tokens"] == 6 * 2 * 153 and trained["flops"] > 0 and trained["seconds"] > 0
    # Only LongRecipe looks for anchors.
    lean = whole[1][0]
    assert [bool(numbers["anchors"]) for numbers, _ in whole] == [False, True]
    assert list(whole[0][0]["training"]) == ["extended", "replayed"]
    assert list(lean["training"]) == ["token analysis", "extended", "replayed"]
    assert list(lean["stages"]) == ["merged"] and not lean["full"]

    # In full: nothing is trained anew, so that times are those of the training; more is measured, alike.
    experiments.run(grid[1:])
    full = results.load(longrecipe)["numbers"]
    assert full["full"] and full["training"] == lean["training"] and full["anchors"] == lean["anchors"]
    assert list(full["stages"]) == ["extended", "replayed", "merged"]
    asked, lately = (each["stages"]["merged"]["tasks"][512] for each in (lean, full))
    assert set(asked) == set(NIAH_M) and set(lately) == {"single", *NIAH_M}
    assert {task: lately[task]["mean"] for task in NIAH_M} == {task: asked[task]["mean"] for task in NIAH_M}


# What the repository promises: notebooks 04, 06 and 07 open on finished runs.
COMMITTED = {
    "methods": experiments.methods,
    "ablation": experiments.ablation,
    "ratio": experiments.ratio,
    "front": experiments.front,
}


@pytest.mark.parametrize("grid", COMMITTED)
def test_the_grids_that_notebooks_show_have_finished(grid):
    left = [p for p in COMMITTED[grid]() if not experiments.is_finished(p, experiments.HOW[grid])]
    assert not left
