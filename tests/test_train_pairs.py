"""Optimizers in pairs with the ways to train by two processes (gloo, CPU): each pair trains, resumes and saves, or is
refused before any work. The table in docs/settings.md has the same pairs."""

import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file
from test_train_context import INTERRUPTED, launch, prepared  # noqa: F401, fixtures
from test_train_sharding import ROOT, SAVING, ZERO3, a_trainer

from longrecipe.data.samples import Collator
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.train import Stage, check_installed, run_stage
from longrecipe.train.sharding import configure_sharding

WAYS = ("replicas", "sequence_parallel", "FSDP2", "ZeRO-3")
OPTIMIZERS = {
    optimizer: replace(SAVING, optimizer=optimizer, fp32_weights=optimizer == "adamw_fp32")
    for optimizer in ("adamw_fp32", "adamw_bf16", "adamw_8bit", "adamw_4bit")
}
# FSDP2 and ZeRO-3 train, are killed and resume in test_train_sharding.
REFUSED = {("adamw_8bit", "FSDP2"), ("adamw_4bit", "FSDP2")}
REFUSED |= {(optimizer, "ZeRO-3") for optimizer in OPTIMIZERS if optimizer != "adamw_fp32"}
TRAINED = [(optimizer, way) for optimizer in OPTIMIZERS for way in WAYS[:2]]
PROCESS = (
    INTERRUPTED
    + """
# Two batches make a step, and there is a checkpoint after the second step.
Stopped.last = 7
plain = StageTrainer.train

def train(self, *args, **options):
    out = plain(self, *args, **options)
    # Low-bit optimizers round at random: the replicas must draw the same numbers.
    own = torch.cat([p.detach().float().flatten() for p in self.model.parameters()])
    both = [torch.empty_like(own) for _ in range(2)]
    dist.all_gather(both, own)
    assert torch.equal(*both)
    assert {p.dtype for p in self.model.parameters()} == {dtype}
    return out

StageTrainer.train = train
root, cases, found = Path(sys.argv[1]), json.loads(sys.argv[2]), {}
data = load_from_disk(str(root / "data"))
for name, settings in cases.items():
    stage = Stage(**settings | {"setup": Setup(**settings["setup"])})
    dtype = weights_dtype(stage.setup)
    run = partial(run_stage, partial(load, root / "start", dtype=dtype), data, stage=stage, folder=root / name)
    try:
        run(Stopped(METHODS["longrecipe"], 128, 3))
    except KeyboardInterrupt:
        pass
    got = run(Collator(METHODS["longrecipe"], 128, 3))
    # The next stage starts from it, in every process.
    assert got.load().num_parameters() > 0
    found[name] = got.losses, got.resumed_from
if dist.get_rank() == 0:
    (root / "found.json").write_text(json.dumps(found))
"""
)


def stage_of(optimizer, way):
    setup = replace(OPTIMIZERS[optimizer], sequence_parallel=2 if way == "sequence_parallel" else 1)
    precision = "fp32" if setup.fp32_weights else "bf16"
    batch = {"steps": 4, "batch_size": 4, "accumulation": 2, "save_steps": 2}
    return Stage("extend", **batch, learning_rate=0.01, precision=precision, setup=setup)


@pytest.fixture(scope="module")
def found(launch, prepared):  # noqa: F811
    """The folder of all pairs that are trained here, and by pair its losses and the step that it resumed from."""
    pytest.importorskip("torchao")
    folder = prepared()
    cases = {f"{optimizer}-{way}": asdict(stage_of(optimizer, way)) for optimizer, way in TRAINED}
    with pytest.MonkeyPatch.context() as patch:
        # torchao compiles its updates, which takes half a minute for each shape, for the same numbers.
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        launch(PROCESS, folder, 2, json.dumps(cases))
    return folder, json.loads((folder / "found.json").read_text())


@pytest.fixture(scope="module")
def alone(found):
    """The stage in one process, with float32 weights and moments, and how it changes the weights."""
    folder, _ = found
    data, positions = load_from_disk(str(folder / "data")), Collator(METHODS["longrecipe"], 128, 3)
    stage = stage_of("adamw_fp32", "replicas")
    run = run_stage(lambda: load(folder / "start"), data, positions, stage=stage, folder=folder / "alone")
    return run.losses, change(folder, run.folder)


def change(folder, trained):
    """The change of all weights by training, as one vector."""
    before, after = (load_file(path / "model.safetensors") for path in (folder / "start", trained))
    return torch.cat([(after[name] - before[name]).float().flatten() for name in before])


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "way"), TRAINED)
def test_allowed_pairs_train_resume_and_save(optimizer, way, found, alone):
    folder, seen = found
    losses, resumed_from = seen[f"{optimizer}-{way}"]
    expected, by_one = alone
    exact = optimizer == "adamw_fp32"
    assert resumed_from == 2
    assert losses == pytest.approx(expected, rel=1e-5 if exact else 0.01)
    # Adam's first steps have the size of the rate and the sign of a gradient, which rounding may change.
    off = change(folder, folder / f"{optimizer}-{way}" / "model") - by_one
    assert off.norm() < (1e-3 if exact else 0.5) * by_one.norm()


@pytest.mark.parametrize(("optimizer", "way"), sorted(REFUSED))
def test_other_pairs_are_refused_before_any_work(optimizer, way, monkeypatch):
    setup = OPTIMIZERS[optimizer]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    if way == "FSDP2":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=f"optimizer = '{optimizer}' with"):
        check_installed(setup)
        configure_sharding(a_trainer(deepspeed=ZERO3), replace(setup, shards=2), 2)


def test_the_pairs_of_the_documentation_are_these():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(adamw_\w+)`[^|]* \|(.*)\|$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(OPTIMIZERS)
    for optimizer, cells in rows:
        expected = ["refused" if (optimizer, way) in REFUSED else "✓" for way in WAYS]
        assert [cell.strip() for cell in cells.split("|")] == expected, optimizer
