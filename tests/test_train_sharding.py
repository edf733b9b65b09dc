"""Two processes (gloo, CPU) with sharded weights, by FSDP2 or ZeRO-3, train the same model as one process."""

import json
import os
import socket
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from limits import TIMEOUT
from safetensors.torch import load_file
from torch.distributed.fsdp.fully_sharded_data_parallel import StateDictType

from longrecipe.data.samples import Collator, interleave, store
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.settings import Setup
from longrecipe.settings import load as load_params
from longrecipe.train import PLAIN, Stage, check_installed, run_stage, weights_dtype
from longrecipe.train.sharding import configure_sharding

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = {name: ROOT / "params" / "accelerate" / f"{name}.yaml" for name in ("fsdp2", "zero3")}
SAVING = replace(PLAIN, checkpointing=True, fused_loss=True, loss_chunk=20)
STAGE = Stage("extend", steps=4, batch_size=8, learning_rate=0.01, precision="fp32", accumulation=2, save_steps=2)
KL = {"kl_weight": 2.0}
PROCESS = """
import json, os, sys
from functools import partial
from pathlib import Path
import torch
from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils import DeepSpeedPlugin
from longrecipe.train.guard import SkippedPositionsError, check_skipped_positions
from longrecipe.settings import Setup
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.data.samples import Collator, load_from_disk
from longrecipe.train import Stage, StageTrainer, run_stage, savings, weights_dtype

savings.COMPILER = "aot_eager"
root, settings, stop_after = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
plain_state, plain_step, is_sharded, cut = AcceleratorState.__init__, StageTrainer.training_step, set(), []

def state_as_on_gpus(self, *args, **kwargs):
    # Before it shards by FSDP, accelerate only checks whether the processes have GPUs.
    if PartialState().distributed_type == DistributedType.MULTI_CPU:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    plain_state(self, *args, **kwargs)

def plugin_of_all_sizes(self):
    # DeepSpeed does not shard parameters below 1e5 numbers, so not a single one here.
    plain_plugin(self)
    self.deepspeed_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0

def watched_step(self, model, inputs, *args, **kwargs):
    if is_sharded and not cut and not is_split:
        # In the sharded network too, attention crosses the jumps, and the check detects it if it does not. Not before
        # the first pass, in which FSDP2 reads the dtypes of trained parameters: the check freezes all of them.
        network = self.accelerator.unwrap_model(model)
        check_skipped_positions(network)
        try:
            check_skipped_positions(network, with_mask=False)
        except SkippedPositionsError:
            cut.append(True)
    if self.state.global_step == stop_after:
        # Like a kill, without any cleanup.
        torch.distributed.barrier()
        os._exit(0)
    assert {p.dtype for p in model.parameters()} == {dtype}
    # Before the first pass: between passes DeepSpeed may keep gathered parameters.
    is_sharded.update(() if is_sharded else (
        2 * p.to_local().numel() == p.numel() if hasattr(p, "to_local") else p.numel() == 0 < p.ds_tensor.numel()
        for p in model.parameters()
    ))
    loss = plain_step(self, model, inputs, *args, **kwargs)
    assert loss.dtype == torch.float32 and loss != loss.bfloat16()
    return loss

AcceleratorState.__init__, StageTrainer.training_step = state_as_on_gpus, watched_step
plain_plugin, DeepSpeedPlugin.__post_init__ = DeepSpeedPlugin.__post_init__, plugin_of_all_sizes
chosen = Stage(**settings | {"setup": Setup(**settings["setup"])})
data, positions = load_from_disk(str(root / "data")), Collator(METHODS["longrecipe"], 128, 3)
dtype, is_split = weights_dtype(chosen.setup), chosen.setup.sequence_parallel > 1
start, original = (partial(load, root / name, dtype=dtype) for name in ("start", "original"))
got = run_stage(start, data, positions, stage=chosen, folder=root / "run", original=original)
assert torch.distributed.get_world_size() == 2
# Before it splits samples, the trainer reads some with gathered parameters.
assert is_sharded == {True} or is_split and True in is_sharded, is_sharded
assert cut or is_split
assert (got.folder / "model.safetensors").is_file()
# The next stage starts from complete weights in every process.
assert all(p.numel() for p in got.load().parameters())
if torch.distributed.get_rank() == 0:
    (root / "got.json").write_text(json.dumps({"losses": got.losses, "resumed_from": got.resumed_from}))
# A process that leaves its group open may abort at its exit.
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def launch(warm_python):
    """A function that starts two processes with `accelerate launch` and a file of params/accelerate."""
    return partial(run_with_accelerate, warm_python)


def run_with_accelerate(python, kind, folder, stage, *, stop_after=-1, machines=1):
    """machines: 2 starts a launcher with one process for each of two machines, which are both this one."""
    if kind == "zero3":
        pytest.importorskip("deepspeed")
    script = folder / "process.py"
    script.write_text(PROCESS)
    settings = json.dumps(stage.__dict__ | {"setup": stage.setup.__dict__ | {"shards": 2}})
    words = [python, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[kind])]
    words += ["--num_processes", "2", "--num_machines", str(machines)]
    last = [str(script), str(folder), settings, str(stop_after)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "PYTHON_EXEC": python, "DS_ACCELERATOR": "cpu"}
    with ExitStack() as stack:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1] if machines > 1 else 0
        started = []
        for rank in range(machines):
            where = ["--machine_rank", str(rank), "--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
            options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
            one = subprocess.Popen([*words, *where, *last], env=environment, cwd=folder, **options)
            started.append(stack.enter_context(one))
            stack.callback(one.kill)
        for one in started:
            _, errors = one.communicate(timeout=TIMEOUT)
            assert one.returncode == 0, errors[-8000:]


def prepared(make_tiny, random_rows, folder, tied=False):
    long, short = random_rows(16), random_rows(16, long=False)
    for seed, name in ((0, "start"), (5, "original")):
        make_tiny(seed, tie_word_embeddings=tied).save_pretrained(folder / name)
    return store(interleave(long, short, 8), folder / "data")


def run_alone(dataset, folder, stage):
    dtype = weights_dtype(stage.setup)
    start, original = (partial(load, folder / name, dtype=dtype) for name in ("start", "original"))
    return run_stage(
        start, dataset, Collator(METHODS["longrecipe"], 128, 3), stage=stage, folder=folder / "alone", original=original
    )


def assert_same(alone, folder, loss=1e-5, weights=1e-4):
    """weights: the allowed difference, as a share of the change by training."""
    got = json.loads((folder / "got.json").read_text())
    assert got["losses"] == pytest.approx(alone.losses, rel=loss)
    assert alone.losses[-1] != pytest.approx(alone.losses[0], rel=1e-2)
    ones, twos = (load_file(path / "model.safetensors") for path in (alone.folder, folder / "run" / "model"))
    before = load_file(folder / "start" / "model.safetensors")
    assert ones.keys() == twos.keys()
    changed, off = (torch.cat([(x[n] - ones[n]).flatten() for n in ones]).norm() for x in (before, twos))
    assert changed > 1
    assert off < weights * changed, off / changed
    return got


@pytest.mark.parametrize(
    ("kind", "tied", "change"),
    [
        ("fsdp2", False, {"setup": SAVING}),
        ("fsdp2", True, KL),
        ("fsdp2", False, {"setup": replace(SAVING, sequence_parallel=2)}),
        ("fsdp2", False, {"setup": replace(SAVING, compile=True)}),
        ("zero3", False, {"setup": SAVING}),
        ("zero3", True, KL),
    ],
    ids=["fsdp2-savings", "fsdp2-kl-tied", "fsdp2-split", "fsdp2-compiled", "zero3-savings", "zero3-kl-tied"],
)
@pytest.mark.slow
def test_sharded_processes_train_the_same_model_as_one(kind, tied, change, launch, make_tiny, random_rows, tmp_path):
    stage = replace(STAGE, **change)
    by_one = replace(stage, setup=replace(stage.setup, sequence_parallel=1, compile=False))
    alone = run_alone(prepared(make_tiny, random_rows, tmp_path, tied), tmp_path, by_one)
    launch(kind, tmp_path, stage)
    assert_same(alone, tmp_path)


@pytest.mark.slow
def test_the_settings_for_eight_gpus_train_the_same_model_on_two_machines(launch, make_tiny, random_rows, tmp_path):
    setup = Setup.of(load_params("llama3", "paper", "gpus8"), shards=1)
    assert setup.optimizer == "adamw_fp32" and setup.checkpointing and setup.fused_loss
    stage = replace(STAGE, setup=setup)
    alone = run_alone(prepared(make_tiny, random_rows, tmp_path), tmp_path, stage)
    launch("fsdp2", tmp_path, stage, machines=2)
    assert_same(alone, tmp_path)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.slow
def test_killed_sharded_stage_resumes_from_its_checkpoint(kind, launch, make_tiny, random_rows, tmp_path):
    stage = replace(STAGE, setup=SAVING)
    alone = run_alone(prepared(make_tiny, random_rows, tmp_path), tmp_path, stage)
    launch(kind, tmp_path, stage, stop_after=3)
    assert not (tmp_path / "got.json").exists()
    launch(kind, tmp_path, stage)
    assert assert_same(alone, tmp_path)["resumed_from"] == 2


@pytest.mark.parametrize("fp32_weights", [True, False], ids=["mixed", "bfloat16"])
@pytest.mark.slow
def test_fsdp_keeps_the_dtypes_of_the_setup(fp32_weights, launch, make_tiny, random_rows, tmp_path):
    optimizer = "adamw_fp32" if fp32_weights else "adamw_bf16"
    setup = replace(SAVING, fp32_weights=fp32_weights, optimizer=optimizer)
    stage = replace(STAGE, setup=setup, precision="bf16")
    alone = run_alone(prepared(make_tiny, random_rows, tmp_path), tmp_path, stage)
    launch("fsdp2", tmp_path, stage)
    # Adam's first step has the size of the rate and the sign of a gradient, which rounding in bfloat16 may change.
    assert_same(alone, tmp_path, loss=2e-2, weights=0.3)


@pytest.mark.parametrize("kind", CONFIGS)
def test_accelerate_knows_all_keys_of_its_configuration_files(kind):
    path = CONFIGS[kind]
    config = load_config_from_file(str(path))
    assert config.distributed_type == {"fsdp2": "FSDP", "zero3": "DEEPSPEED"}[kind]
    # Its loader refuses unknown top-level keys; keys of a section become options of accelerate launch.
    known = vars(launch_command_parser().parse_args(["script.py"]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()
    assert (config.fsdp_config or config.deepspeed_config) and config.mixed_precision == "no"
    lines = [line for line in path.read_text().splitlines() if not line.endswith("_config:")]
    assert all("#" in line for line in lines)


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "adamw_4bit"])
def test_low_bit_moments_are_refused_with_fsdp_before_any_work(optimizer, monkeypatch):
    setup = replace(SAVING, optimizer=optimizer, fp32_weights=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    check_installed(setup)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=f"optimizer = '{optimizer}' with FSDP2: .* Use adamw_fp32"):
        check_installed(setup)


def a_trainer(fsdp=None, deepspeed=None, mixed="no"):
    """The attributes of a Trainer that `configure_sharding` reads."""
    state = SimpleNamespace(fsdp_plugin=fsdp, deepspeed_plugin=deepspeed)
    accelerator = SimpleNamespace(state=state, mixed_precision=mixed)
    return SimpleNamespace(
        is_fsdp_enabled=fsdp is not None, is_deepspeed_enabled=deepspeed is not None, accelerator=accelerator
    )


def fsdp_plugin(**changes):
    return SimpleNamespace(**{"fsdp_version": 2, "state_dict_type": StateDictType.FULL_STATE_DICT} | changes)


ZERO3 = SimpleNamespace(zero_stage=3, zero3_save_16bit_model=True)
SHARDED = replace(SAVING, shards=2)
LOW_BIT = replace(SHARDED, optimizer="adamw_8bit", fp32_weights=False)


@pytest.mark.parametrize(
    ("trainer", "setup", "message"),
    [
        (a_trainer(), SHARDED, "shards = 2, but the weights are sharded over 1 of 2 processes"),
        (a_trainer(fsdp=fsdp_plugin()), SAVING, "shards = 1, but the weights are sharded over 2 of 2"),
        (a_trainer(deepspeed=ZERO3), SAVING, "shards = 1, but the weights are sharded over 2 of 2"),
        (a_trainer(), replace(SAVING, fp32_accumulation=True), "fp32_accumulation = True with 2 processes"),
        (a_trainer(fsdp=fsdp_plugin(fsdp_version=1)), SHARDED, "fsdp_version = 1"),
        (
            a_trainer(fsdp=fsdp_plugin(state_dict_type=StateDictType.SHARDED_STATE_DICT)),
            SHARDED,
            "fsdp_state_dict_type = SHARDED_STATE_DICT",
        ),
        (a_trainer(fsdp=fsdp_plugin(), mixed="bf16"), LOW_BIT, "mixed_precision = 'bf16'"),
        (a_trainer(deepspeed=ZERO3), LOW_BIT, "optimizer = 'adamw_8bit' with fp32_weights = False: DeepSpeed"),
        (
            a_trainer(deepspeed=SimpleNamespace(zero_stage=3, zero3_save_16bit_model=False)),
            SHARDED,
            "zero3_save_16bit_model = False",
        ),
    ],
)
def test_setups_that_do_not_match_the_sharding_are_refused(trainer, setup, message):
    with pytest.raises(ValueError, match=message):
        configure_sharding(trainer, setup, 2)
