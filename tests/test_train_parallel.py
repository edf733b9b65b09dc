"""Two processes (gloo, CPU) train the same model as one."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from limits import TIMEOUT
from safetensors.torch import load_file

from longrecipe.data.samples import Collator, interleave, store
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.train import PLAIN, Stage, run_stage

ROOT = Path(__file__).resolve().parents[1]
STAGE = Stage("extend", steps=4, batch_size=4, learning_rate=0.3, precision="fp32", options={"optim": "sgd"})
LAUNCHER = ["torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29651"]
PROCESS = """
import json, sys
from pathlib import Path
import torch
from longrecipe.settings import Setup
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.data.samples import Collator, load_from_disk
from longrecipe.train import Stage, StageTrainer, run_stage

plain_step = StageTrainer.training_step

def watched_step(self, model, *args, **kwargs):
    loss = plain_step(self, model, *args, **kwargs)
    # DDP keeps no second copy of the gradients: they are parts of its buckets.
    assert model.gradient_as_bucket_view
    return loss

StageTrainer.training_step = watched_step
root, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
chosen = Stage(**settings | {"setup": Setup(**settings["setup"])})
data, positions = load_from_disk(str(root / "data")), Collator(METHODS["longrecipe"], 128, 3, skip=True)
start, original = (lambda: load(root / "start")), (lambda: load(root / "original"))
got = run_stage(start, data, positions, stage=chosen, folder=root / "run", original=original)
assert torch.distributed.get_world_size() == 2
assert (got.folder / "model.safetensors").is_file()
if torch.distributed.get_rank() == 0:
    (root / "losses.json").write_text(json.dumps(got.losses))
# A process that leaves its group open may abort at its exit.
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("change", "weighted"),
    [
        ({"kl_weight": 2.0}, False),
        ({"kl_weight": 2.0, "skip_weight": 1.5}, True),
        ({"accumulation": 2, "setup": replace(PLAIN, checkpointing=True, fused_loss=True, loss_chunk=20)}, True),
    ],
    ids=["kl", "weighted-kl-skip", "weighted-savings"],
)
@pytest.mark.slow
def test_two_processes_train_the_same_model_as_one(change, weighted, warm_python, make_tiny, random_rows, tmp_path):
    stage = replace(STAGE, **change)
    long, short = random_rows(8, weighted=weighted), random_rows(8, long=False, weighted=weighted)
    dataset = store(interleave(long, short, 4), tmp_path / "data")
    for seed, name in ((0, "start"), (5, "original")):
        make_tiny(seed).save_pretrained(tmp_path / name)
    positions, original = Collator(METHODS["longrecipe"], 128, 3, skip=True), lambda: load(tmp_path / "original")
    alone = run_stage(
        lambda: load(tmp_path / "start"), dataset, positions, stage=stage, folder=tmp_path / "alone", original=original
    )
    settings = json.dumps(stage.__dict__ | {"setup": stage.setup.__dict__})
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    words = [warm_python, "-m", *LAUNCHER, str(script), str(tmp_path), settings]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON_EXEC": warm_python}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(alone.losses, rel=1e-5)
    assert alone.losses[-1] != pytest.approx(alone.losses[0], rel=1e-2)
    ones, twos = (
        load_file(folder / "model" / "model.safetensors") for folder in (alone.folder.parent, tmp_path / "run")
    )
    before = load_file(tmp_path / "start" / "model.safetensors")
    assert ones.keys() == twos.keys()
    for name, tensor in ones.items():
        torch.testing.assert_close(twos[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    assert max((tensor - before[name]).abs().max() for name, tensor in ones.items()) > 1e-3


def test_batch_size_that_processes_do_not_divide_is_refused(make_tiny, random_rows, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    dataset = store(random_rows(8), tmp_path / "data")
    with pytest.raises(ValueError, match="batch_size = 4 does not split among 3 processes"):
        run_stage(make_tiny, dataset, Collator(METHODS["flt"], 128, 3), stage=STAGE, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
