"""Training that fails, and damaged files of a stage: a failure is never reported as success."""

import json
import logging
import shutil
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from longrecipe.data.samples import Collator, store
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.system.files import locked
from longrecipe.train import DivergedError, Stage, latest_checkpoint, run_stage
from longrecipe.train.checkpoints import damaged, missing
from longrecipe.train.divergence import first_not_finite, warn_if_worse

STAGE = Stage("extend", steps=6, batch_size=2, learning_rate=1.0e-2, save_steps=2, precision="fp32")


def collator(kind=Collator):
    return kind(METHODS["longrecipe"], 128, 3)


class Stopping(Collator):
    """A collator that interrupts training in the sixth step, after checkpoints of steps 2 and 4."""

    def __call__(self, rows):
        self.__dict__["n_calls"] = self.__dict__.get("n_calls", 0) + 1
        if self.n_calls == 6:
            raise KeyboardInterrupt
        return super().__call__(rows)


def trained(folder):
    return load_file(folder / "model" / "model.safetensors"), json.loads((folder / "stage.json").read_text())["losses"]


def same(one, other):
    return one[1] == other[1] and all(torch.equal(tensor, other[0][name]) for name, tensor in one[0].items())


@pytest.fixture(scope="module")
def rows(random_rows, tmp_path_factory):
    return store(random_rows(12), tmp_path_factory.mktemp("rows") / "data")


@pytest.fixture(scope="module")
def undisturbed(make_tiny, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "stage"
    run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)
    return folder


@pytest.fixture(scope="module")
def interrupted(make_tiny, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "stage"
    with pytest.raises(KeyboardInterrupt):
        run_stage(make_tiny, rows, collator(Stopping), stage=STAGE, folder=folder)
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["checkpoint-2", "checkpoint-4"]
    return folder


# checkpoints


def test_no_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path / "nowhere") is None


FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.mark.parametrize("fault", ["cut", "empty", "gone"])
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_falls_back_to_the_older_one(name, fault, interrupted, tmp_path, caplog):
    shutil.copytree(interrupted / "checkpoints", tmp_path / "checkpoints")
    path = tmp_path / "checkpoints" / "checkpoint-4" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if fault == "cut" else b"")
    if fault == "gone":
        path.unlink()
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path / "checkpoints").name == "checkpoint-2"
    assert "checkpoint-4 is damaged or incomplete" in caplog.text and name.split(".")[0] in caplog.text
    assert not path.parent.exists(), "its files must not be mixed with those of a later save"


@pytest.mark.slow
def test_run_with_a_damaged_checkpoint_equals_the_undisturbed_run(make_tiny, rows, interrupted, undisturbed, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "stage")
    path = folder / "checkpoints" / "checkpoint-4" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:1000])
    result = run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)
    assert result.resumed_from == 2 and same(trained(folder), trained(undisturbed))


def test_run_without_any_complete_checkpoint_starts_again(make_tiny, rows, interrupted, undisturbed, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "stage")
    for path in (folder / "checkpoints").glob("*/model.safetensors"):
        path.write_bytes(b"")
    result = run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)
    assert result.resumed_from is None and same(trained(folder), trained(undisturbed))


def test_complete_checkpoint_has_no_missing_or_damaged_file(interrupted):
    for path in (interrupted / "checkpoints").iterdir():
        assert (missing(path), damaged(path)) == (None, None)


# records and models


@pytest.mark.parametrize("content", ["", '{"stage": {"na', "3", "[]"])
def test_damaged_record_resumes_from_the_checkpoint_or_names_the_folder(
    content, make_tiny, rows, interrupted, undisturbed, tmp_path
):
    folder = shutil.copytree(interrupted, tmp_path / "stage")
    (folder / "stage.json").write_text(content)
    assert run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder).resumed_from == 4
    assert same(trained(folder), trained(undisturbed))
    (folder / "stage.json").write_text(content)
    with pytest.raises(ValueError, match=rf"stage\.json(.|\n)*delete {folder}"):
        run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_damaged_model_of_a_finished_stage_is_refused(name, fault, make_tiny, rows, undisturbed, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "stage")
    path = folder / "model" / name
    content = path.read_bytes()
    path.unlink()
    if fault == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"is damaged(.|\n)*{name}(.|\n)*delete {folder}, and the same command"):
        run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)


def test_second_run_of_a_stage_waits_for_the_first(make_tiny, rows, undisturbed, tmp_path, caplog):
    folder, found = tmp_path / "stage", []
    started = threading.Event()

    def second():
        started.set()
        found.append(run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder))

    with caplog.at_level(logging.WARNING), locked(folder, "trains the stage extend"):
        thread = threading.Thread(target=second)
        thread.start()
        assert started.wait(1800)
        while "trains the stage extend" not in caplog.text:
            thread.join(0.1)
            assert thread.is_alive()
        shutil.copytree(undisturbed, folder)
    thread.join(1800)
    assert found[0].resumed_from == STAGE.steps, "the model of the first run is loaded"


# divergence


def test_first_non_finite_number_ends_a_stage(make_tiny, rows, tmp_path):
    stage = replace(STAGE, learning_rate=1.0e30, schedule="constant")
    for _ in range(2):
        with pytest.raises(DivergedError) as error:
            run_stage(make_tiny, rows, collator(), stage=stage, folder=tmp_path / "stage")
        message = str(error.value)
        assert message.startswith("extend: the ") and "in step 2 of 6, with a learning rate of 1e+30." in message
        assert "Lower extend_learning_rate (1e+30; try a tenth of it)" in message
        assert "losses" not in json.loads((tmp_path / "stage" / "stage.json").read_text())
        assert not (tmp_path / "stage" / "model").exists()


def test_unusable_weights_are_reported_in_their_own_stage(make_tiny, rows, tmp_path):
    # The numbers are finite, but attention selects single tokens.
    stage = replace(STAGE, name="replay", learning_rate=30.0, schedule="constant")
    with pytest.raises(DivergedError, match=r"replay: the (trained model is unusable|.*nan)(.|\n)*Lower replay_learn"):
        run_stage(make_tiny, rows, collator(), stage=stage, folder=tmp_path / "stage")
    assert not (tmp_path / "stage" / "model").exists()


def test_model_with_nan_is_refused_before_training(make_tiny, rows, tmp_path):
    def broken():
        network = make_tiny()
        with torch.no_grad():
            network.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
        return network

    with pytest.raises(
        ValueError, match=r"extend starts from a model whose model\.layers\.1\.mlp\.up_proj\.weight has"
    ):
        run_stage(broken, rows, collator(), stage=STAGE, folder=tmp_path / "stage")
    assert not (tmp_path / "stage" / "stage.json").exists()


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"a": torch.ones(3), "b": torch.tensor([0, torch.inf])}, "b"),
        ({"a": torch.tensor([torch.nan, 1, 2]), "b": torch.tensor([torch.inf])}, "a"),
        ({"a": torch.tensor([1.0, -torch.inf]).bfloat16()}, "a"),
        ({"a": torch.arange(3), "b": torch.empty(0), "c": torch.tensor(1.0)}, None),
    ],
)
def test_first_not_finite_names_the_first_tensor(values, name):
    assert first_not_finite(values.items()) == name


@pytest.mark.parametrize(
    ("losses", "warns"),
    [([3.0, 2.0, 1.0], False), ([3.0, 3.2, 4.6], True), ([0.1, 0.2, 0.3], False), ([2.0] * 40 + [4.0], False)],
)
def test_loss_that_ends_far_above_its_start_is_a_warning(losses, warns, caplog):
    with caplog.at_level(logging.WARNING):
        warn_if_worse(losses, STAGE)
    assert ("the model got worse. Lower extend_learning_rate" in caplog.text) == warns


def test_finished_stage_loads_and_loses_leftover_checkpoints(make_tiny, rows, undisturbed, interrupted, tmp_path):
    folder = shutil.copytree(undisturbed, tmp_path / "stage")
    shutil.copytree(interrupted / "checkpoints", folder / "checkpoints")
    result = run_stage(make_tiny, rows, collator(), stage=STAGE, folder=folder)
    assert result.resumed_from == 6 and load(result.folder).training is False
    assert not (folder / "checkpoints").exists()
