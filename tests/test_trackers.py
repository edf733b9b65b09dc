"""Experiment trackers: what they get, where they write, and that they do not change a run."""

import os
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from runs import SHORT
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from longrecipe import positions, recipe, results, settings
from longrecipe.data.samples import Collator
from longrecipe.train import Stage, run_stage, trackers
from longrecipe.train.trackers import check_tracker, tracked

STAGE = Stage("extend", steps=3, batch_size=2, learning_rate=1.0e-2, precision="fp32")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def train(make_tiny, dataset, tmp_path):
    """A function that trains a stage in a folder of its own."""

    def run(name, **changes):
        collator = Collator(positions.METHODS["longrecipe"], 128, 3)
        return run_stage(make_tiny, dataset, collator, stage=replace(STAGE, **changes), folder=tmp_path / name)

    return run


@pytest.fixture
def wandb(monkeypatch):
    """A stub of wandb and of Trainer's callback: the entries of the log by run, and the runs that were finished."""
    package = SimpleNamespace(run=None, logs={}, finished=[])

    def finish():
        package.finished.append(package.run)
        package.run = None

    class Callback(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            package.run = package.run or args.run_name
            package.places = [os.environ.get(name) for name in ("WANDB_DIR", "WANDB_PROJECT")]

        def on_log(self, args, state, control, logs, **kwargs):
            package.logs.setdefault(package.run, []).append((state.global_step, logs))

    package.finish = finish
    monkeypatch.setitem(sys.modules, "wandb", package)
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "wandb", Callback)
    return package


@pytest.mark.slow
def test_tracker_gets_every_step_and_leaves_the_training_alone(train, wandb, cache):
    plain, reported = train("plain"), train("reported", report_to="wandb", run_name="a-run-extend")
    assert plain.losses == reported.losses
    steps = [(step, logs) for step, logs in wandb.logs["a-run-extend"] if "loss" in logs]
    assert [step for step, _ in steps] == [1, 2, 3]
    assert [logs["loss"] for _, logs in steps] == plain.losses
    assert all({"learning_rate", "grad_norm"} <= logs.keys() for _, logs in steps)
    assert wandb.places == [str(cache / "trackers"), "longrecipe"] and (cache / "trackers").is_dir()
    # The next stage starts a run of its own.
    train("next", report_to="wandb", run_name="a-run-replay")
    assert list(wandb.logs) == wandb.finished == ["a-run-extend", "a-run-replay"]
    assert "WANDB_DIR" not in os.environ


@pytest.mark.slow
def test_finished_stage_is_loaded_whatever_the_tracker(train, wandb):
    train("stage")
    assert train("stage", report_to="wandb", run_name="a-run-extend").resumed_from == STAGE.steps and not wandb.logs


@pytest.mark.slow
def test_run_of_the_user_stays_open_and_their_environment_wins(train, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    wandb.run = "my run"
    train("stage", report_to="wandb", run_name="a-run-extend")
    assert wandb.run == "my run" and not wandb.finished and wandb.places[1] == os.environ["WANDB_PROJECT"] == "mine"


def test_run_is_closed_after_an_error(wandb):
    with pytest.raises(RuntimeError, match="out of memory"), tracked("wandb", "a-run"):
        wandb.run = "a-run"
        raise RuntimeError("out of memory")
    assert wandb.finished == ["a-run"] and "WANDB_DIR" not in os.environ


@pytest.mark.slow
def test_tensorboard_writes_to_a_folder_of_the_run_in_the_cache(train, cache):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plain, reported = train("plain"), train("reported", report_to="tensorboard", run_name="a-run-extend")
    events = EventAccumulator(str(cache / "trackers" / "tensorboard" / "a-run-extend"))
    events.Reload()
    assert plain.losses == reported.losses
    assert [each.value for each in events.Scalars("train/loss")] == pytest.approx(plain.losses)
    assert {"train/learning_rate", "train/grad_norm"} <= set(events.Tags()["scalars"])


@pytest.mark.slow
def test_stages_have_the_name_of_the_runs_row_in_the_results(monkeypatch):
    run = recipe.prepare(settings.load("llama3", report_to="tensorboard", **SHORT | {"method": "pose"}))
    made = []
    monkeypatch.setattr("longrecipe.train.run_stage", lambda *given, stage, **options: made.append(stage))
    run.extend(None)
    run.probe()
    row = results.run_name(run.params, "train")
    assert [stage.run_name for stage in made] == [f"{row}-extend", f"{row}-probe"]
    assert {stage.report_to for stage in made} == {"tensorboard"}
    only = replace(run, analysis_only=True)
    only.probe()
    assert made[-1].run_name == f"{results.run_name(run.params, 'tokens')}-probe"


def test_tracker_changes_neither_the_run_nor_its_folders():
    plain, other = settings.load("llama3"), settings.load("llama3", report_to="mlflow")
    assert plain.key == other.key
    assert all(plain.stage_key(stage) == other.stage_key(stage) for stage in ("analysis", "extend", "replay"))
    assert STAGE.record == replace(STAGE, report_to="wandb", run_name="a").record


def test_unknown_tracker_error_lists_the_allowed_ones():
    with pytest.raises(settings.ParamsError, match=r"report_to = 'tensorbord': .*'none', 'tensorboard', 'wandb'"):
        settings.load("llama3", report_to="tensorbord")


@pytest.mark.parametrize("analysis_only", [False, True])
def test_missing_package_stops_a_run_before_any_work(analysis_only, monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    check_tracker("none")
    p = settings.load("llama3", report_to="trackio")
    with pytest.raises(ValueError, match=r"report_to = 'trackio' needs .* not installed: pip install trackio"):
        recipe.prepare(p, analysis_only)
