"""Two processes (gloo, CPU) that share the weights, by FSDP2 or ZeRO-3, train as one process does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from safetensors.torch import load_file

from longrecipe.cost import Setup
from longrecipe.models import load
from longrecipe.positions import METHODS
from longrecipe.samples import Collator, interleave, store
from longrecipe.train import PLAIN, Stage, run_stage
from longrecipe.train.sharding import configure_sharding

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {name: ROOT / "params" / "accelerate" / f"{name}.yaml" for name in ("fsdp2", "zero3")}
SAVING = replace(PLAIN, checkpointing=True, fused_loss=True, loss_chunk=20)
STAGE = Stage("extend", steps=4, batch_size=8, learning_rate=0.01, precision="fp32", accumulation=2, save_steps=2)
PROCESS = """
import json, sys
from pathlib import Path
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from longrecipe.attention import SkippedPositionsError, check_skipped_positions
from longrecipe.cost import Setup
from longrecipe.models import load
from longrecipe.positions import METHODS
from longrecipe.samples import Collator, load_from_disk
from longrecipe.train import Stage, StageTrainer, run_stage

torch.set_num_threads(1)
root, settings, stop_after = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
plain_state, plain_step, is_sharded, cut = AcceleratorState.__init__, StageTrainer.training_step, set(), []

def state_as_on_gpus(self, *args, **kwargs):
    # The one thing that accelerate asks before it shards by FSDP: whether the processes have GPUs.
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    plain_state(self, *args, **kwargs)

def watched_step(self, model, inputs, *args, **kwargs):
    if not is_sharded:
        # In the sharded network itself: attention crosses the jumps, and the check would see it if it did not.
        network = self.accelerator.unwrap_model(model)
        check_skipped_positions(network)
        try:
            check_skipped_positions(network, with_mask=False)
        except SkippedPositionsError:
            cut.append(True)
    if self.state.global_step == stop_after:
        raise KeyboardInterrupt
    is_sharded.update(
        2 * p.to_local().numel() == p.numel() if hasattr(p, "to_local") else 2 * p.ds_tensor.numel() == p.ds_numel
        for p in model.parameters()
    )
    return plain_step(self, model, inputs, *args, **kwargs)

AcceleratorState.__init__, StageTrainer.training_step = state_as_on_gpus, watched_step
chosen = Stage(**settings | {"setup": Setup(**settings["setup"])})
data, positions = load_from_disk(str(root / "data")), Collator(METHODS["longrecipe"], 128, 3)
networks = (lambda folder=root / name: load(folder) for name in ("start", "original"))
try:
    got = run_stage(next(networks), data, positions, chosen, root / "run", next(networks))
except KeyboardInterrupt:
    sys.exit()
assert torch.distributed.get_world_size() == 2
assert is_sharded == {True}, is_sharded
assert cut
assert (got.folder / "model.safetensors").is_file()
# A stage that follows starts from whole weights in every process.
assert all(p.numel() for p in got.load().parameters())
if torch.distributed.get_rank() == 0:
    (root / "got.json").write_text(json.dumps({"losses": got.losses, "resumed_from": got.resumed_from}))
"""


def launch(kind, folder, stage, port, stop_after=-1):
    """Two processes as `accelerate launch` starts them with a file of params/accelerate."""
    script = folder / "process.py"
    script.write_text(PROCESS)
    settings = json.dumps(stage.__dict__ | {"setup": stage.setup.__dict__})
    words = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[kind])]
    words += ["--num_processes", "2", "--main_process_port", str(port), str(script), str(folder), settings]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*words, str(stop_after)], capture_output=True, text=True, env=environment, cwd=folder, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]


def prepared(make_tiny, random_rows, folder, tied=False):
    long, short = random_rows(16), random_rows(16, long=False)
    for seed, name in ((0, "start"), (5, "original")):
        make_tiny(seed, tie_word_embeddings=tied).save_pretrained(folder / name)
    return store(interleave(long, short, 8), folder / "data")


def assert_same(alone, folder):
    got = json.loads((folder / "got.json").read_text())
    assert got["losses"] == pytest.approx(alone.losses, rel=1e-5)
    assert alone.losses[-1] != pytest.approx(alone.losses[0], rel=1e-2)
    ones, twos = (load_file(path / "model.safetensors") for path in (alone.folder, folder / "run" / "model"))
    before = load_file(folder / "start" / "model.safetensors")
    assert ones.keys() == twos.keys()
    for name, tensor in ones.items():
        torch.testing.assert_close(twos[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert max((tensor - before[name]).abs().max() for name, tensor in ones.items()) > 1e-2
    return got


@pytest.mark.parametrize(
    ("kind", "port", "tied", "change"),
    [
        ("fsdp2", 29661, False, {"setup": SAVING}),
        ("fsdp2", 29662, True, {"kl_weight": 2.0}),
        ("zero3", 29663, False, {"setup": SAVING}),
        ("zero3", 29664, True, {"kl_weight": 2.0}),
    ],
    ids=["fsdp2-savings", "fsdp2-kl-tied", "zero3-savings", "zero3-kl-tied"],
)
def test_sharded_processes_train_as_one(kind, port, tied, change, make_tiny, random_rows, tmp_path, one_thread):
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    stage = replace(STAGE, **change)
    dataset = prepared(make_tiny, random_rows, tmp_path, tied)
    positions, original = Collator(METHODS["longrecipe"], 128, 3), lambda: load(tmp_path / "original")
    alone = run_stage(lambda: load(tmp_path / "start"), dataset, positions, stage, tmp_path / "alone", original)
    launch(kind, tmp_path, replace(stage, setup=replace(stage.setup, shards=2)), port)
    assert_same(alone, tmp_path)
