"""Optimizers and compiled blocks in pairs with the ways to train by two processes (gloo, CPU): each pair trains,
resumes and saves, or is refused before any work. The table in docs/settings.md has the same pairs."""

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
SETUPS = {
    optimizer: replace(SAVING, optimizer=optimizer, fp32_weights=optimizer == "adamw_fp32")
    for optimizer in ("adamw_fp32", "adamw_bf16", "adamw_8bit", "adamw_4bit")
}
SETUPS["compile"] = replace(SAVING, compile=True)
# FSDP2 and ZeRO-3 train, are killed and resume in test_train_sharding.
REFUSED = {("adamw_8bit", "FSDP2"), ("adamw_4bit", "FSDP2")}
REFUSED |= {(name, "ZeRO-3") for name in SETUPS if name != "adamw_fp32"}
TRAINED = [(name, way) for name in SETUPS for way in WAYS[:2]]
PROCESS = (
    INTERRUPTED
    + """
from longrecipe.train import savings
# Two batches make a step, and there is a checkpoint after the second step.
Stopped.last = 7
plain, plain_compile = StageTrainer.train, torch.compile

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
savings.COMPILER = "aot_eager"
root, cases, found = Path(sys.argv[1]), json.loads(sys.argv[2]), {}
data = load_from_disk(str(root / "data"))
for name, settings in cases.items():
    stage = Stage(**settings | {"setup": Setup(**settings["setup"])})
    dtype = weights_dtype(stage.setup)
    # torchao compiles its updates, which takes half a minute for each shape, for the same numbers.
    torch.compile = plain_compile if stage.setup.compile else lambda function, **options: function
    run = partial(run_stage, partial(load, root / "start", dtype=dtype), data, stage=stage, folder=root / name)
    try:
        run(Stopped(METHODS["longrecipe"], 128, 3))
    except KeyboardInterrupt:
        pass
    got = run(Collator(METHODS["longrecipe"], 128, 3))
    # The next stage starts from it, in every process.
    assert got.load().num_parameters() > 0
    compiled = sum(torch._dynamo.utils.counters["frames"].values())
    found[name] = got.losses, got.resumed_from, compiled
if dist.get_rank() == 0:
    (root / "found.json").write_text(json.dumps(found))
"""
)


def stage_of(name, way):
    setup = replace(SETUPS[name], sequence_parallel=2 if way == "sequence_parallel" else 1)
    precision = "fp32" if setup.fp32_weights else "bf16"
    batch = {"steps": 4, "batch_size": 4, "accumulation": 2, "save_steps": 2}
    return Stage("extend", **batch, learning_rate=0.01, precision=precision, setup=setup)


@pytest.fixture(scope="module")
def found(launch, prepared):  # noqa: F811
    """The folder of all pairs that are trained here, and by pair its losses, the step that it resumed from, and how
    many functions were compiled so far."""
    pytest.importorskip("torchao")
    folder = prepared()
    launch(PROCESS, folder, 2, json.dumps({f"{name}-{way}": asdict(stage_of(name, way)) for name, way in TRAINED}))
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
@pytest.mark.parametrize(("name", "way"), TRAINED)
def test_allowed_pairs_train_resume_and_save(name, way, found, alone):
    folder, seen = found
    losses, resumed_from, compiled = seen[f"{name}-{way}"]
    expected, by_one = alone
    exact = SETUPS[name].optimizer == "adamw_fp32"
    assert resumed_from == 2
    assert (compiled > 0) == (name == "compile")
    assert losses == pytest.approx(expected, rel=1e-5 if exact else 0.01)
    # Adam's first steps have the size of the rate and the sign of a gradient, which rounding may change.
    off = change(folder, folder / f"{name}-{way}" / "model") - by_one
    assert off.norm() < (1e-3 if exact else 0.5) * by_one.norm()


@pytest.mark.parametrize(("name", "way"), sorted(REFUSED))
def test_other_pairs_are_refused_before_any_work(name, way, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    if way == "FSDP2":
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="compile = True with DeepSpeed" if name == "compile" else f"'{name}' with"):
        check_installed(SETUPS[name])
        configure_sharding(a_trainer(deepspeed=ZERO3), replace(SETUPS[name], shards=2), 2)


def test_the_pairs_of_the_documentation_are_these():
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(adamw_\w+|compile)`[^|]* \|((?: (?:✓|refused) \|)+)$", text, re.MULTILINE)
    assert [name for name, _ in rows] == list(SETUPS)
    for name, cells in rows:
        expected = ["refused" if (name, way) in REFUSED else "✓" for way in WAYS]
        assert cells.split("|")[:-1] == [f" {cell} " for cell in expected], name
