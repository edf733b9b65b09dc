import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributions import Categorical

import longrecipe.train.stage as module
from longrecipe import positions
from longrecipe.data.samples import Collator, interleave, store
from longrecipe.merge import merge
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.train import Stage, damaged_model, kl_divergence, latest_checkpoint, run_stage
from longrecipe.train.guard import SkippedPositionsError

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET, N_TOKENS = 128, 32
LONGRECIPE = METHODS["longrecipe"]


def collator(seed=3, **changes):
    return Collator(LONGRECIPE, TARGET, seed, **changes)


class Recorder(Collator):
    """A collator that records its batches; for loaders without workers."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        self.__dict__.setdefault("seen", []).append((self.epoch, rows, batch))
        return batch


STAGE = Stage("extend", steps=12, batch_size=2, learning_rate=1.0e-2, save_steps=2, precision="fp32")


# a stage


@pytest.mark.slow
def test_tiny_model_memorises_its_samples(make_tiny, random_rows, tmp_path):
    dataset = store(random_rows(2), tmp_path / "data")
    stage = replace(STAGE, steps=60, learning_rate=2.0e-2, save_steps=100)
    trained = run_stage(make_tiny, dataset, collator(), stage=stage, folder=tmp_path / "stage")
    assert len(trained.losses) == 60 and trained.resumed_from is None
    assert trained.losses[0] > 5 and trained.losses[-1] < 0.5
    assert trained.n_tokens == 60 * 2 * N_TOKENS and trained.seconds > 0
    # The folder only holds the result.
    assert sorted(path.name for path in (tmp_path / "stage").iterdir()) == ["model", "stage.json"]
    network = trained.load()
    assert not network.training
    with torch.inference_mode():
        assert network(**collator(epoch=99)(list(dataset))).loss < 1


@pytest.mark.slow
def test_positions_are_drawn_again_every_epoch(make_tiny, dataset, tmp_path):
    recorder = Recorder(LONGRECIPE, TARGET, 3)
    run_stage(make_tiny, dataset, recorder, stage=replace(STAGE, save_steps=100), folder=tmp_path / "stage")
    seen = recorder.seen
    assert [epoch for epoch, *_ in seen[:12]] == [0] * 5 + [1] * 5 + [2] * 2
    for epoch, rows, batch in seen:
        assert torch.equal(batch["position_ids"], collator(epoch=epoch)(rows)["position_ids"])
    for first, second in zip(seen[:5], seen[5:10], strict=True):
        assert torch.equal(first[2]["input_ids"], second[2]["input_ids"])
        assert not torch.equal(first[2]["position_ids"], second[2]["position_ids"])


@pytest.mark.slow
def test_number_of_loader_workers_does_not_change_losses(make_tiny, dataset, tmp_path):
    losses = [
        run_stage(
            make_tiny, dataset, collator(), stage=replace(STAGE, steps=7, options=options), folder=tmp_path / name
        ).losses
        for name, options in {
            "none": {},
            "two": {"dataloader_num_workers": 2},
            "kept": {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        }.items()
    ]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
def test_tokens_are_counted_for_batches_of_mixed_length(make_tiny, random_rows, tmp_path):
    mixed = interleave(random_rows(4), random_rows(5, n_tokens=16), 2)
    dataset = store([*mixed, mixed[-1]], tmp_path / "data")
    recorder = Recorder(LONGRECIPE, TARGET, 3)
    trained = run_stage(make_tiny, dataset, recorder, stage=replace(STAGE, steps=5), folder=tmp_path / "stage")
    sizes = [batch["input_ids"].numel() for *_, batch in recorder.seen[:5]]
    assert len(set(sizes)) == 2
    assert trained.n_tokens == sum(sizes)


def test_skipped_positions_are_checked_before_training(make_tiny, dataset, tmp_path, monkeypatch):
    def refuse(network):
        raise SkippedPositionsError("attention is cut")

    monkeypatch.setattr(module, "check_skipped_positions", refuse)
    with pytest.raises(SkippedPositionsError):
        run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage")
    assert not (tmp_path / "stage").exists()


def test_dataset_smaller_than_a_batch_is_an_error(make_tiny, dataset, tmp_path):
    # Trainer would drop the only batch and finish without training.
    with pytest.raises(ValueError, match=r"10 samples.*batch_size = 11"):
        run_stage(make_tiny, dataset, collator(), stage=replace(STAGE, batch_size=11), folder=tmp_path / "stage")


# the KL term


def test_kl_divergence_equals_its_definition():
    wanted, logits = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log() + 3
    assert kl_divergence(wanted, logits).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert kl_divergence(logits, wanted).item() == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5))
    generator = torch.Generator().manual_seed(0)
    wanted, logits = (3 * torch.randn(2, 5, 7, generator=generator) for _ in range(2))
    expected = torch.distributions.kl_divergence(Categorical(logits=wanted), Categorical(logits=logits)).mean()
    torch.testing.assert_close(kl_divergence(wanted, logits), expected)
    assert kl_divergence(wanted, wanted).item() == 0
    # In float32, whatever the dtype of the logits.
    halves = wanted.bfloat16(), logits.bfloat16()
    found = kl_divergence(*halves)
    assert found.dtype == torch.float32 and torch.equal(found, kl_divergence(*(each.float() for each in halves)))


@pytest.mark.slow
def test_stage_with_kl_weight_stays_close_to_the_original(make_tiny, random_rows, tmp_path):
    dataset = store(random_rows(10, long=False), tmp_path / "data")
    held_out = collator()([row | {"key": 0} for row in random_rows(8, seed=1, long=False)])
    original = make_tiny(5)
    distances, networks = {}, []
    for weight in (0.0, 20.0):
        stage = replace(STAGE, save_steps=100, kl_weight=weight)
        make_original = lambda: networks.append(make_tiny(5)) or networks[-1]  # noqa: E731
        trained = run_stage(
            make_tiny, dataset, collator(), stage=stage, folder=tmp_path / str(weight), original=make_original
        )
        with torch.inference_mode():
            distances[weight] = kl_divergence(original(**held_out).logits, trained.load()(**held_out).logits)
    assert distances[20.0] < 0.8 * distances[0.0]
    # Only built if needed, and not trained.
    (kept,) = networks
    assert all(torch.equal(tensor, kept.state_dict()[name]) for name, tensor in original.state_dict().items())
    assert all(parameter.grad is None for parameter in kept.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["endprompt", "longrecipe:max_gap=0"])
def test_kl_term_only_applies_to_short_text(name, make_tiny, random_rows, tmp_path):
    # Samples of long text as short as the others, at the end of the target or inside the original's window.
    rows = [*random_rows(2, n_tokens=16), *random_rows(4, n_tokens=16, long=False), *random_rows(2, n_tokens=64)]
    dataset, original, seen = store(rows, tmp_path / "data"), make_tiny(5, max_position_embeddings=32), []
    original.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    losses = []
    for weight in (0.0, 2.0):
        stage = replace(STAGE, steps=4, save_steps=100, kl_weight=weight)
        skipping = Collator(positions.find(name), TARGET, seed=3)
        trained = run_stage(
            make_tiny, dataset, skipping, stage=stage, folder=tmp_path / str(weight), original=lambda: original
        )
        losses.append(trained.losses)
    assert [batch["input_ids"].tolist() for batch in seen] == [dataset["input_ids"][i : i + 2] for i in (2, 4)]
    assert all(torch.equal(batch["position_ids"], torch.arange(16).expand(2, 16)) for batch in seen)
    assert losses[0][0] == losses[1][0] and losses[1][1] > losses[0][1] + 0.1


@pytest.mark.slow
def test_skip_term_is_the_distance_of_hidden_states_at_skipped_positions(make_tiny, random_rows, tmp_path):
    rows = [*random_rows(2), *random_rows(2, seed=1, long=False)]
    dataset, losses = store(rows, tmp_path / "data"), []
    skipping = Collator(METHODS["longrecipe"], TARGET, seed=3, skip=True)
    for weight in (0.0, 3.0):
        # A learning rate this small leaves the model as it is.
        stage = replace(STAGE, steps=2, save_steps=100, learning_rate=1e-12, skip_weight=weight)
        trained = run_stage(
            make_tiny, dataset, skipping, stage=stage, folder=tmp_path / str(weight), original=lambda: make_tiny(5)
        )
        losses.append(trained.losses)
    batch = skipping([row | {"key": 2 + key} for key, row in enumerate(rows[2:])])
    plain, far = batch["position_ids"], batch["skipped_position_ids"]
    assert (plain == torch.arange(32)).all() and (far[:, -1] == TARGET - 1).all() and (far.diff() > 0).all()
    assert "skipped_position_ids" not in skipping([row | {"key": key} for key, row in enumerate(rows[:2])])
    given = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.inference_mode():
        wanted, found = (
            network.base_model(**given, position_ids=positions).last_hidden_state
            for network, positions in ((make_tiny(5), plain), (make_tiny(), far))
        )
    term = 1 - (wanted * found).sum(-1) / (wanted.norm(dim=-1) * found.norm(dim=-1))
    assert losses[1][0] == losses[0][0]
    assert losses[1][1] - losses[0][1] == pytest.approx(3 * term.mean().item(), rel=1e-4)


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_one_batch(make_tiny, random_rows, tmp_path):
    dataset = store(random_rows(8, long=False), tmp_path / "data")
    skipping = Collator(METHODS["longrecipe"], TARGET, seed=3, skip=True)
    # SGD: for gradients close to 0, Adam turns rounding into large steps.
    whole = replace(STAGE, steps=3, learning_rate=0.5, kl_weight=3.0, skip_weight=2.0, options={"optim": "sgd"})
    parts = replace(whole, accumulation=2)
    first, second = (
        run_stage(make_tiny, dataset, skipping, stage=stage, folder=tmp_path / name, original=lambda: make_tiny(5))
        for name, stage in {"whole": whole, "parts": parts}.items()
    )
    assert first.losses == pytest.approx(second.losses, rel=1e-5)
    before, ones, others = make_tiny().state_dict(), weights(first.folder), weights(second.folder)
    for name, tensor in ones.items():
        torch.testing.assert_close(tensor, others[name], rtol=1e-4, atol=1e-6)
    assert max((tensor - before[name]).abs().max() for name, tensor in ones.items()) > 1e-2


def test_skip_weight_without_skipped_positions_or_with_split_samples_is_an_error(make_tiny, random_rows, tmp_path):
    dataset = store(random_rows(4, long=False), tmp_path / "data")
    stage = replace(STAGE, skip_weight=0.5)
    with pytest.raises(ValueError, match=r"skip_weight = 0\.5 needs a Collator with skip=True"):
        run_stage(make_tiny, dataset, collator(), stage=stage, folder=tmp_path / "run", original=make_tiny)
    with pytest.raises(ValueError, match=r"skip_weight = 0\.5: .* set sequence_parallel to 1"):
        replace(stage, setup=replace(stage.setup, sequence_parallel=2))


def test_kl_weight_without_the_original_is_an_error(make_tiny, random_rows, tmp_path):
    dataset = store(random_rows(4, long=False), tmp_path / "data")
    for name in ("kl_weight", "skip_weight"):
        with pytest.raises(ValueError, match=rf"{name} = 0\.5 needs the original model"):
            run_stage(make_tiny, dataset, collator(), stage=replace(STAGE, **{name: 0.5}), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# kill and resume

KILLED_RUN = """
import json, sys, time
from pathlib import Path
from longrecipe.merge import merge
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.data.samples import Collator, load_from_disk
from longrecipe.settings import Setup
from longrecipe.train import Stage, run_stage

class Stuck(Collator):
    calls = 0

    def __call__(self, rows):
        self.calls += 1
        if self.calls > 8:
            time.sleep(7200)
        return super().__call__(rows)

settings = json.loads(sys.argv[2])
root, stage = Path(sys.argv[1]), Stage(**settings | {"setup": Setup(**settings["setup"])})
stuck = Stuck(METHODS["longrecipe"], int(sys.argv[3]), seed=3)
data = load_from_disk(str(root / "data"))
run_stage(lambda: load(root / "start"), data, stuck, stage=stage, folder=root / "killed")
"""


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same(trained, other):
    assert trained.losses == other.losses
    first, second = weights(trained.folder), weights(other.folder)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_killed_run_ends_bit_for_bit_like_an_uninterrupted_one(make_tiny, dataset, tmp_path):
    make_tiny(0).save_pretrained(tmp_path / "start")
    in_one_go, afterwards = Recorder(LONGRECIPE, TARGET, 3), Recorder(LONGRECIPE, TARGET, 3)
    whole = run_stage(lambda: load(tmp_path / "start"), dataset, in_one_go, stage=STAGE, folder=tmp_path / "whole")
    assert whole.resumed_from is None and len(whole.losses) == 12

    checkpoints = tmp_path / "killed" / "checkpoints"
    command = [sys.executable, "-c", KILLED_RUN, str(tmp_path), json.dumps(asdict(STAGE)), str(TARGET)]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=os.environ, stdout=output, stderr=output)
        try:
            # Step 6 is in the second epoch; the collator then hangs, so the run cannot end before it is killed.
            while not (checkpoints / "checkpoint-6" / "trainer_state.json").is_file():
                assert process.poll() is None, (tmp_path / "output").read_text()
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    step = int(latest_checkpoint(checkpoints).name.split("-")[1])
    assert 4 <= step < 12

    # Start from other weights: the result must depend on the checkpoint only.
    resumed = run_stage(lambda: make_tiny(1), dataset, afterwards, stage=STAGE, folder=tmp_path / "killed")
    assert resumed.resumed_from == step
    assert_same(resumed, whole)
    drawn = [
        {(epoch, *(row["key"] for row in rows)): batch["position_ids"] for epoch, rows, batch in recorder.seen}
        for recorder in (in_one_go, afterwards)
    ]
    assert len(drawn[1]) >= 12 - step and max(drawn[1]) == max(drawn[0]) and drawn[1].keys() <= drawn[0].keys()
    assert all(torch.equal(found, drawn[0][batch]) for batch, found in drawn[1].items())

    third = run_stage(
        lambda: pytest.fail("trained again"), dataset, collator(), stage=STAGE, folder=tmp_path / "killed"
    )
    assert third.resumed_from == 12
    assert_same(third, whole)
    assert (third.seconds, third.n_tokens) == (resumed.seconds, whole.n_tokens)


@pytest.mark.slow
def test_run_killed_after_its_last_step_only_writes_its_record(make_tiny, dataset, tmp_path, monkeypatch):
    whole = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *args, **options: None)
        run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage")
    (tmp_path / "stage" / "stage.json").unlink()
    again = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage")
    assert again.resumed_from == 12
    assert_same(again, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"learning_rate": 2.0e-2}, {"steps": 5}, {"seed": 1}, {"options": {"adam_beta1": 0}}]
)
def test_folder_with_other_settings_is_an_error(make_tiny, dataset, tmp_path, change):
    stage = replace(STAGE, steps=1)
    run_stage(make_tiny, dataset, collator(), stage=stage, folder=tmp_path / "stage")
    with pytest.raises(ValueError, match="stage holds extend with other settings"):
        run_stage(make_tiny, dataset, collator(), stage=replace(stage, **change), folder=tmp_path / "stage")


@pytest.mark.slow
def test_weights_after_some_steps_are_kept_and_change_nothing(make_tiny, dataset, tmp_path):
    plain = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "plain")
    kept = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "kept", keep_steps=[3, 6])
    assert_same(kept, plain)
    # As long as the schedule of the learning rate is the same, the first steps are those of a shorter stage.
    constant = replace(STAGE, schedule="constant")
    short = run_stage(make_tiny, dataset, collator(), stage=replace(constant, steps=3), folder=tmp_path / "short")
    long = run_stage(make_tiny, dataset, collator(), stage=constant, folder=tmp_path / "long", keep_steps=[3])
    assert same_weights(long.load(step=3), short.load()) and not same_weights(long.load(step=3), long.load())
    assert same_weights(kept.load(step=12), kept.load())
    with pytest.raises(OSError, match="step-4"):
        kept.load(step=4)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.slow
def test_a_resumed_stage_has_the_weights_from_before_and_after_its_interruption(make_tiny, dataset, tmp_path):
    steps = [3, 5, 11]
    whole = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "whole", keep_steps=steps)
    with pytest.raises(KeyboardInterrupt):
        # The second epoch begins after step 5, and the last checkpoint is that of step 4.
        run_stage(
            make_tiny,
            dataset,
            Stopped(LONGRECIPE, TARGET, 3),
            stage=STAGE,
            folder=tmp_path / "stopped",
            keep_steps=steps,
        )
    again = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stopped", keep_steps=steps)
    assert again.resumed_from == 4
    assert all(same_weights(again.load(step=step), whole.load(step=step)) for step in [*steps, 12])


class Stopped(Collator):
    """A collator that is interrupted at the start of the second epoch."""

    def __call__(self, rows):
        if self.epoch:
            raise KeyboardInterrupt
        return super().__call__(rows)


def test_large_models_are_saved_in_shards_which_merging_reads_one_by_one(make_tiny, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SHARD_SIZE", "50KB")
    make_tiny(1).save_pretrained(tmp_path / "original")
    trained = run_stage(make_tiny, dataset, collator(), stage=replace(STAGE, steps=2), folder=tmp_path / "stage")
    shards = sorted(path.name for path in trained.folder.glob("*.safetensors"))
    assert len(shards) > 2 and damaged_model(trained.folder) is None
    merged = merge(tmp_path / "original", trained.folder, tmp_path / "merged", weight=0.0)
    assert sorted(path.name for path in merged.glob("*.safetensors")) == shards
    for name, tensor in trained.load().state_dict().items():
        assert torch.equal(load(merged).state_dict()[name], tensor), name
    (trained.folder / shards[0]).unlink()
    assert shards[0] in damaged_model(trained.folder)


def test_interrupted_stage_with_other_settings_is_not_resumed(make_tiny, dataset, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_stage(make_tiny, dataset, Stopped(LONGRECIPE, TARGET, 3), stage=STAGE, folder=tmp_path / "stage")
    assert latest_checkpoint(tmp_path / "stage" / "checkpoints") is not None
    with pytest.raises(ValueError, match="other settings"):
        run_stage(make_tiny, dataset, collator(), stage=replace(STAGE, learning_rate=1.0e-3), folder=tmp_path / "stage")


@pytest.mark.slow
def test_seconds_include_those_before_an_interruption(make_tiny, dataset, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        run_stage(make_tiny, dataset, Stopped(LONGRECIPE, TARGET, 3), stage=STAGE, folder=tmp_path / "stage")
    checkpoints = tmp_path / "stage" / "checkpoints"
    assert latest_checkpoint(checkpoints).name == "checkpoint-4"
    seconds = [json.loads((checkpoints / f"checkpoint-{step}" / "seconds.json").read_text()) for step in (2, 4)]
    assert 0 < seconds[0] < seconds[1] < 500
    (checkpoints / "checkpoint-4" / "seconds.json").write_text("1000.0")
    (checkpoints / "checkpoint-2" / "seconds.json").write_text("5000.0")
    # Keep the checkpoints, to inspect them.
    monkeypatch.setattr(module.shutil, "rmtree", lambda *args, **options: None)
    trained = run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage")
    last = json.loads((checkpoints / "checkpoint-12" / "seconds.json").read_text())
    assert trained.resumed_from == 4 and 1000 < last <= trained.seconds < 2000
    assert run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage").seconds == trained.seconds
    # As if killed again, before its record was written.
    (tmp_path / "stage" / "stage.json").unlink()
    assert last < run_stage(make_tiny, dataset, collator(), stage=STAGE, folder=tmp_path / "stage").seconds < 2000
