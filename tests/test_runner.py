"""Sweeps: what runs and what is skipped, what a run measures, and sweeps that are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from runs import SHORT

from longrecipe import recipe, results, settings
from longrecipe.cli import main
from longrecipe.cost import training_flops
from longrecipe.evaluate import NIAH_M
from longrecipe.experiments import EXPERIMENTS, protocols, runner
from longrecipe.experiments.protocols import FULL, LEAN, MERGES, STEPS
from longrecipe.models.loading import load
from longrecipe.recipe import cache
from longrecipe.system.files import BusyError
from longrecipe.train import Trained

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE1, TABLE2, FRONTS = (EXPERIMENTS[name] for name in ("table1", "table2", "fronts"))


def record(p, protocol):
    """The file of a run of this machine."""
    return results.run_dir(p, protocol.store) / "metrics.json"


@pytest.mark.slow
def test_finished_runs_are_skipped_and_force_repeats_them(quick, quick_text):
    grid = TABLE1.grid("llama3", seeds=[0, 1], targets=[512])
    first, second = grid[:5], grid[5:]
    TABLE1.run([*first, first[0]])
    assert quick == [(p, FULL) for p in first]
    TABLE1.run(grid)
    assert quick == [(p, FULL) for p in first + second] and len(results.finished("grid")) == 10
    # A folder without metrics.json is of an interrupted run.
    record(first[3], FULL).unlink()
    assert [TABLE1.is_finished(p) for p in first] == [True, True, True, False, True]
    TABLE1.run(iter(grid))
    assert quick[10:] == [(first[3], FULL)]
    trained = [recipe.prepare(p).folder(stage) / "model" for p in first[:2] for stage in ("extend", "replay")]
    for folder in trained:
        folder.mkdir(parents=True)
    TABLE1.run([first[1], first[0]], force=True)
    assert not any(folder.exists() for folder in trained)
    assert quick[11:] == [(first[1], FULL), (first[0], FULL)]


def test_a_damaged_run_is_repeated(quick, caplog):
    grid = TABLE1.grid("llama3", seeds=[0], targets=[512])[:3]
    TABLE1.run(grid)
    record(grid[0], FULL).write_text("")
    metrics = record(grid[1], FULL)
    metrics.write_text(metrics.read_text()[:100])
    assert [TABLE1.is_finished(p) for p in grid] == [False, False, True]
    assert f"{metrics} is not readable JSON" in caplog.text and f"delete the folder {metrics.parent}" in caplog.text
    TABLE1.run(grid)
    assert quick[3:] == [(p, FULL) for p in grid[:2]]
    assert all(TABLE1.is_finished(p) for p in grid)


def test_a_second_sweep_at_the_same_time_is_refused(quick, monkeypatch, capsys):
    monkeypatch.setattr(runner, "_run", lambda p, protocol: main(["sweep", "table2", "--seeds", "0"]))
    with pytest.raises(SystemExit) as stop:
        TABLE1.run(TABLE1.grid("llama3", seeds=[0], targets=[512]))
    said = capsys.readouterr().err
    assert stop.value.code == 1 and "runs a sweep" in said and "The next sweep resumes.\n" in said


def test_single_runs_may_run_next_to_others_but_not_next_to_themselves(quick, monkeypatch, capsys):
    one, other = (results.run_name(p, "grid") for p in TABLE2.grid(seeds=[0])[:2])
    monkeypatch.setattr(
        runner,
        "_run",
        lambda p, protocol: quick.append(p) or main(["sweep", "table2", "--seeds", "0", "--only", other]),
    )
    with pytest.raises(SystemExit) as stop:
        main(["sweep", "table2", "--seeds", "0", "--only", one])
    assert stop.value.code == 1 and "runs a sweep" in capsys.readouterr().err
    assert quick == TABLE2.grid(seeds=[0])[:2]


@pytest.mark.slow
def test_a_lean_run_does_not_count_as_a_full_one(quick):
    grid = TABLE2.grid(seeds=[0])
    lean, full = grid[1:3], grid[2:4]
    runner.run(lean, LEAN)
    runner.run(full, FULL)
    assert quick == [(lean[0], LEAN), (lean[1], LEAN), (full[0], FULL), (full[1], FULL)]
    # But a full one has everything that a lean one measures.
    runner.run([*lean, *full], LEAN)
    assert len(quick) == 4
    found = [runner.is_finished(p, protocol) for p in (lean[0], full[0]) for protocol in (LEAN, FULL)]
    assert found == [True, False, True, True]
    # Repeated, it stays a full one.
    runner.run(full, LEAN, force=True)
    assert quick[4:] == [(p, FULL) for p in full]


def test_runs_that_merge_are_kept_apart_from_the_others(quick):
    grid = FRONTS.grid(seeds=[0], target_length=512)[:2]
    FRONTS.run(grid)
    assert [record(p, MERGES).is_file() for p in grid] == [True, True]
    assert [run.params for run in results.finished("front")] == sorted(grid, key=lambda p: record(p, MERGES))
    # The same settings have not been run for the tables.
    runner.run(grid, LEAN)
    assert quick == [(p, protocol) for protocol in (MERGES, LEAN) for p in grid]


def test_a_failing_run_keeps_the_finished_ones_and_frees_the_lock(quick, monkeypatch):
    grid, run = TABLE1.grid("llama3", seeds=[0], targets=[512]), runner._run

    def fail(p, protocol):
        if p.method == "rpes":
            raise OSError("no space left")
        run(p, protocol)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_run", fail)
        with pytest.raises(OSError, match="no space"):
            TABLE1.run(grid)
    assert [p.method for p, _ in quick] == ["none", "flt"]
    TABLE1.run(grid)
    assert [p.method for p, _ in quick[2:]] == ["rpes", "pose", "longrecipe"]


def test_progress_shows_runs_and_minutes_left(quick, monkeypatch, capsys, caplog):
    # The clock is read at the start and before each run; runs take 10 minutes.
    readings = [0.0, 0.0, 600.0, 1200.0, 1800.0]
    monkeypatch.setattr(runner, "time", SimpleNamespace(perf_counter=lambda: readings.pop(0)))
    caplog.set_level("INFO", "longrecipe.experiments")
    grid = [settings.load("llama3", method="pose", seed=seed) for seed in range(4)]
    runner.run(grid[:1] + grid, FULL)
    names = [results.run_name(p, "grid") for p in grid]
    expected = [
        f"0 of 4 runs, time left not known; now {names[0]}",
        f"1 of 4 runs, 30 minutes left; now {names[1]}",
        f"2 of 4 runs, 20 minutes left; now {names[2]}",
        f"3 of 4 runs, 10 minutes left; now {names[3]}",
    ]
    shown = capsys.readouterr().err
    assert all(text in shown for text in expected) and "100%" in shown
    assert [each.getMessage().replace("runs done", "runs") for each in caplog.records] == expected


def test_longer_runs_weigh_more():
    def weigh(method, **changes):
        return runner._weight(settings.load("llama3", method=method, **changes), FULL)

    assert weigh("flt") > 3 * weigh("longrecipe") > 3 * weigh("longrecipe", ratio=0.1)
    assert weigh("pose") == weigh("longrecipe") > weigh("longrecipe", target_length=2560)


# one run


def means(run):
    """Mean scores of a run by stage, length and task."""
    scores = run.table("scores")
    return scores.set_index(["stage", "length", "task"])["mean"].to_dict()


@pytest.mark.slow
def test_the_untrained_base_is_measured_and_asked_everything_inside_its_window(own_root, quick_text):
    p = settings.load("llama3", method="none", **SHORT)
    # This run is the same for every grid.
    runner.run([p], LEAN)
    run = results.load(p, "grid")
    assert run.full and run.params == p and run.seconds > 0
    scores = run.table("scores")
    general = {"perplexity", "copying", "first_copy"}
    niah = {*NIAH_M, "NIAH(M)"}
    asked = {key: set(rows["task"]) - general for key, rows in scores.groupby(["stage", "length"])}
    assert asked == {
        ("base", 256): niah | {"single"},
        ("base", 512): niah | {"single"},
        ("RoPE rule alone", 256): niah | {"single"},
        ("RoPE rule alone", 512): niah | {"single"},
        ("base, inside", 256): niah | {"single", "variable tracking", "common words"},
    }
    found = means(run)
    assert found["base", 256, "perplexity"] < found["RoPE rule alone", 256, "perplexity"]
    depths = run.table("depths")
    assert set(depths["stage"]) == set(scores["stage"]) and set(depths["depth"]) == {0, 1, 2, 3, 4}
    assert depths["mean"].between(0, 1).all()
    # Every prompt that has a depth is counted once.
    for length in (256, 512):
        keys = {"stage": "base", "task": "multi-key", "length": length}
        rows, recall = (each[(each[list(keys)] == keys).all(axis=1)] for each in (depths, scores))
        assert rows["count"].sum() == recall["prompts"].item() >= 8
        assert np.average(rows["mean"], weights=rows["count"]) == pytest.approx(recall["mean"].item(), abs=1e-5)


def took(run):
    """What the stages of a prepared run took, by stage."""
    return protocols.train(run)[0]["training"].set_index("stage").to_dict("index")


@pytest.mark.parametrize("ratio", [0.3, 0.5])
@pytest.mark.parametrize("kl_weight", [0.0, 4.0])
def test_computation_is_counted_by_the_length_of_the_samples(ratio, kl_weight, own_root, quick_text, monkeypatch):
    # At 0.5 of 512 tokens long samples are as long as short ones, and must be counted all the same.
    changes = {"replay_steps": 10, "replay_long_share": 0.2, "replay_kl_weight": kl_weight}
    p = settings.load("llama3", method="pose", ratio=ratio, **SHORT | changes)
    run, n = recipe.prepare(p), p.train_length
    config = run.base().config
    counts = {"extended": (12 * n, 0), "replayed": (4 * n, 16 * 256)}
    stages = {name: Trained(name, own_root, [], 12.5, sum(each), None) for name, each in counts.items()}
    monkeypatch.setattr(recipe.Recipe, "stage_one_set", lambda self, analysis: None)
    monkeypatch.setattr(recipe.Recipe, "extend", lambda self, dataset: stages["extended"])
    monkeypatch.setattr(recipe.Recipe, "replay", lambda self, extended, analysis: stages["replayed"])
    training = took(run)
    assert set(training) == set(counts)
    for name, (long, short) in counts.items():
        # For the KL term the original reads the short text as well, forward only.
        read = short * (4 / 3 if kl_weight else 1)
        flops = training_flops(config, long, n) + training_flops(config, read, 256)
        assert training[name]["flops"] == pytest.approx(flops)
        assert (training[name]["seconds"], training[name]["n_tokens"]) == (12.5, long + short)


@pytest.mark.slow
def test_the_token_analysis_is_counted_and_timed_by_the_run_that_makes_it(own_root, quick_text):
    run = recipe.prepare(settings.load("llama3", **SHORT))
    first = took(run)["token analysis"]
    again = took(run.varied(merge_weight=0.1))["token analysis"]
    assert first == again and first["seconds"] > 0
    config, length = run.base().config, SHORT["probe_window"]
    flops = training_flops(config, 4 * length, length) + 2 / 3 * training_flops(config, 5 * length, length)
    assert first["flops"] == pytest.approx(flops)
    # The time of an analysis that something else has made is not known.
    (run.folder("analysis") / "seconds.json").unlink()
    assert np.isnan(took(run)["token analysis"]["seconds"])


@pytest.mark.slow
def test_merges_of_one_training_are_measured_by_weight_and_rule(own_root, quick_text, monkeypatch):
    asked = []

    def sums(network):
        state = network.state_dict()
        return [state[f"model.layers.0.self_attn.{part}_proj.weight"].sum().item() for part in "qv"]

    def measure(self, network, **options):
        asked.append(options)
        query, value = sums(network)
        cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "prompts": 2}
        numbers = {"tasks": {256: {"multi-key": cell}}, "niah_m": {256: cell}}
        return SimpleNamespace(numbers=lambda: numbers | {"perplexity": query, "copying": value, "first_copy": 0.0})

    monkeypatch.setattr(recipe.Recipe, "measure", measure)
    p = settings.load("llama3", method="pose", **SHORT)
    runner.run([p], MERGES)
    run = results.load(p, "front")
    rows = run.table("scores").set_index(["rule", "weight", "task"])["mean"]
    expected = [("uniform", w) for w in (0.0, 0.25, 0.5, 0.75)] + [("spare_qk", w) for w in (0.25, 0.5, 0.75)]
    assert list(dict.fromkeys(key[:2] for key in rows.index)) == expected
    assert asked == [{"share": 0.4, "lengths": [256, 512]}] * 7
    (replayed,), base = (own_root.parent / "cache").glob("*/replay/model"), recipe.prepare(p).base()
    (base_query, base_value), (query, value) = sums(base), sums(load(replayed))
    for rule, weight in expected:
        merged = weight * base_value + (1 - weight) * value
        assert rows[rule, weight, "copying"] == pytest.approx(merged, abs=1e-3)
        spared = 0.0 if rule == "spare_qk" else weight
        merged = spared * base_query + (1 - spared) * query
        assert rows[rule, weight, "perplexity"] == pytest.approx(merged, abs=1e-3)
    assert abs(base_query - query) > 0.02 and abs(base_value - value) > 0.02
    assert list(run.table("training")["stage"]) == ["extended", "replayed"] and run.anchors == []


@pytest.mark.slow
def test_stage_one_is_measured_during_its_steps(own_root, quick_text):
    p = settings.load("llama3", method="pose", **SHORT, eval_steps=[2, 6])
    runner.run([p], STEPS)
    run = results.load(p, "steps")
    assert run.params == p and set(run.tables) == {"scores"} and run.anchors == []
    found = means(run)
    assert {(stage, length) for stage, length, task in found if task == "NIAH(M)"} == {
        (f"step {step}", length) for step in (2, 6) for length in (256, 512)
    }
    assert found["step 2", 256, "perplexity"] != found["step 6", 256, "perplexity"]
    # Neither replay nor a merge follows.
    assert not list((own_root.parent / "cache").glob("*-replay-*"))


# sweeps that are killed

KILLED_SWEEP = """
import json, sys, time
from dataclasses import replace
from longrecipe import settings
from longrecipe.data import english, samples
from longrecipe.experiments import protocols, runner
from longrecipe.recipe import cache

load_english, text = english.load_english, []

def once(tokenizer, planted):
    if not text:
        whole = load_english(tokenizer, planted=planted)
        text.append(replace(whole, held_out=whole.held_out[:20_000]))
    return text[0]

english.load_english = once
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
runner.run([settings.load("llama3", **changes) for changes in json.loads(sys.argv[1])], protocols.LEAN)
"""


@pytest.mark.slow
def test_a_killed_sweep_resumes_and_ends_as_if_it_had_not_been_killed(
    own_root, quick_text, tmp_path, monkeypatch, caplog
):
    changes = [{"method": method, **SHORT} for method in ("pose", "longrecipe")]
    grid = [settings.load("llama3", **each) for each in changes]
    pose, longrecipe = (record(p, LEAN) for p in grid)
    monkeypatch.setattr(cache, "code_hash", lambda *entries: "00000000")
    words = [sys.executable, "-c", KILLED_SWEEP, json.dumps(changes)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(words, cwd=REPOSITORY, env=os.environ, stdout=output, stderr=output)
        try:
            # Step 2 of the second run's extension; the collator then hangs, so that the sweep cannot end by itself.
            wanted = "*longrecipe*/extend/checkpoints/checkpoint-2/trainer_state.json"
            while not list((tmp_path / "cache").glob(wanted)):
                assert process.poll() is None, (tmp_path / "output").read_text()
                time.sleep(0.05)
            message = rf"process {process.pid} runs a sweep \(.*\): wait for it, or stop it\. The next"
            with pytest.raises(BusyError, match=message):
                runner.run(grid, FULL)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert pose.is_file() and not longrecipe.exists()
    before = pose.read_bytes()

    caplog.set_level("INFO", "longrecipe")
    runner.run(grid, LEAN)
    assert "0 of 1 runs done" in caplog.text and "extend resumes from step 2" in caplog.text
    assert pose.read_bytes() == before
    killed = [results.load(p, "grid") for p in grid]

    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "other"))
    runner.run(grid, LEAN, force=True)
    whole = [results.load(p, "grid") for p in grid]
    for one, other in zip(killed, whole, strict=True):
        assert one.anchors == other.anchors and one.full is other.full is False
        assert all(one.table(name).equals(other.table(name)) for name in ("scores", "depths"))
        stages, others = (run.table("training").set_index("stage") for run in (one, other))
        assert stages.drop(columns="seconds").equals(others.drop(columns="seconds"))
        trained = stages.loc["extended"]
        assert trained["n_tokens"] == 6 * 2 * 153 and trained["flops"] > 0 and trained["seconds"] > 0
    # Only LongRecipe looks for anchors.
    assert [bool(run.anchors) for run in whole] == [False, True]
    assert list(whole[0].table("training")["stage"]) == ["extended", "replayed"]
    assert list(whole[1].table("training")["stage"]) == ["token analysis", "extended", "replayed"]
    assert set(whole[1].table("scores")["stage"]) == {"merged"}

    # In full: nothing is trained again, so that times are those of the training; more is measured, with equal scores.
    runner.run(grid[1:], FULL)
    full = results.load(grid[1], "grid")
    assert full.full and full.table("training").equals(whole[1].table("training")) and full.anchors == whole[1].anchors
    assert list(full.table("scores")["stage"].unique()) == ["extended", "replayed", "merged"]
    asked, lately = means(whole[1]), means(full)
    assert {task for _, n, task in lately if n == 512} == {"single", "NIAH(M)", *NIAH_M}
    assert all(lately["merged", 512, task] == asked["merged", 512, task] for task in NIAH_M)
