"""Samples split over several processes (gloo, CPU) train the same model as whole samples."""

import json
import os
import subprocess
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from limits import TIMEOUT
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MistralConfig, Qwen2Config

from longrecipe.data.samples import Collator, interleave, rows_of, store
from longrecipe.data.selection import whole
from longrecipe.families import FAMILIES
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.train import PLAIN, Context, Stage, run_stage
from longrecipe.train.sequence_parallel import SplitCollator, check_splittable, cut, reading_order

ROOT = Path(__file__).resolve().parents[1]
SPLIT = replace(PLAIN, sequence_parallel=2)
STAGE = Stage("extend", steps=4, batch_size=4, learning_rate=0.3, precision="fp32", options={"optim": "sgd"})
CASES = {
    "plain": replace(STAGE, setup=SPLIT),
    "resumed": replace(STAGE, setup=SPLIT, save_steps=2),
    "kl": replace(STAGE, setup=SPLIT, kl_weight=2.0),
    "savings": replace(STAGE, accumulation=2, setup=replace(SPLIT, checkpointing=True, fused_loss=True, loss_chunk=20)),
}
FOUR = {"four": replace(CASES["savings"], kl_weight=0.0), "four-kl": CASES["kl"]}
N_LONG, N_SHORT = 38, 30  # neither is a multiple of four

# The start of a script whose stages are interrupted at a batch: imports, and a collator that stops there.
INTERRUPTED = """
import json, sys
from functools import partial
from pathlib import Path
import torch
import torch.distributed as dist
from longrecipe.settings import Setup
from longrecipe.models.loading import load
from longrecipe.positions import METHODS
from longrecipe.data.samples import Collator, load_from_disk
from longrecipe.train import Stage, StageTrainer, run_stage, weights_dtype

class Stopped(Collator):
    calls, last = 0, 4
    def __call__(self, rows):
        self.calls += 1
        if self.calls == self.last:
            raise KeyboardInterrupt
        return super().__call__(rows)

"""
PROCESS = (
    INTERRUPTED
    + """
root, cases = Path(sys.argv[1]), json.loads(sys.argv[2])
data, seen = load_from_disk(str(root / "data")), {}
make, original = lambda: load(root / "start"), lambda: load(root / "original")
for name, settings in cases.items():
    stage = Stage(**settings | {"setup": Setup(**settings["setup"])})
    if name == "resumed":
        try:
            run_stage(make, data, Stopped(METHODS["longrecipe"], 128, 3), stage=stage, folder=root / name)
        except KeyboardInterrupt:
            pass
    positions = Collator(METHODS["longrecipe"], 128, 3)
    got = run_stage(make, data, positions, stage=stage, folder=root / name, original=original)
    seen[name] = got.losses, got.n_tokens, got.resumed_from
if torch.distributed.get_rank() == 0:
    (root / "seen.json").write_text(json.dumps(seen))
"""
)
GUARD = """
import json, sys
from pathlib import Path
import torch
import torch.distributed as dist
import torch.nn.functional as F
from longrecipe.train.guard import SkippedPositionsError
from longrecipe.models.loading import load
from longrecipe.train import check_sequence_parallel, sequence_parallel, sequence_parallel_check
from transformers import AttentionInterface

dist.init_process_group("gloo")
parts = sequence_parallel.make_context(2)
gather, backward = sequence_parallel.gather, sequence_parallel._Gather.backward

def cutting(module, query, key, value, attention_mask=None, *, position_ids, **options):
    # Jumps are borders, as in transformers without a mask.
    positions = gather(position_ids[:, None, :, None].float(), parts.group)[:, 0, :, 0]
    segment = (positions.diff(prepend=positions[:, :1]) > 1).cumsum(1)
    key, value = (gather(x, parts.group).repeat_interleave(2, dim=1) for x in (key, value))
    place = torch.arange(key.shape[2])
    own = torch.cat([place.chunk(4)[i] for i in parts.chunks])
    sees = (own[:, None] >= place) & (segment[:, own, None] == segment[:, None])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=sees[:, None]).transpose(1, 2), None

def split_at_jumps(network, context):
    AttentionInterface.register(sequence_parallel.NAME, cutting)
    network.set_attn_implementation(sequence_parallel.NAME)

def misplaced(own, group):
    early, late = sequence_parallel._Gather.apply(own, group).chunk(2, dim=3)
    return torch.cat([*early, *late], dim=2)

def own_only(ctx, grad):
    return grad[dist.get_rank()].clone(), None

def verdict(network):
    implementation, training = network.config._attn_implementation, network.training
    try:
        check_sequence_parallel(network, parts)
    except SkippedPositionsError as error:
        return str(error)
    finally:
        assert (network.config._attn_implementation, network.training) == (implementation, training)

found = {name: verdict(load(name)) for name in ("llama3", "mistral", "qwen2")}
network = load("llama3")
found["bfloat16"] = verdict(load("qwen2").to(torch.bfloat16))
sequence_parallel_check.split_attention = split_at_jumps
found["cutting"] = verdict(network)
sequence_parallel_check.split_attention, sequence_parallel.gather = sequence_parallel.split_attention, misplaced
found["misplaced"] = verdict(network)
sequence_parallel.gather, sequence_parallel._Gather.backward = gather, staticmethod(own_only)
found["own_only"] = verdict(network)
(Path(sys.argv[1]) / f"{dist.get_rank()}.json").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def launch(warm_python):
    """A function that runs a script in processes of torchrun."""
    return partial(run_with_torchrun, warm_python)


def run_with_torchrun(python, script, folder, n_processes, *words):
    path = folder / "process.py"
    # A process that leaves its group open may abort at its exit.
    path.write_text(script + "torch.distributed.destroy_process_group()\n")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n_processes)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON_EXEC": python}
    command = [python, *launcher, str(path), str(folder), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-6000:]


def some_rows(count, n_tokens, long):
    rng, lengths = np.random.default_rng(n_tokens), np.array([10, 6, 8, n_tokens - 24])
    for row in rows_of((whole(rng.integers(0, 1024, size=n_tokens), lengths) for _ in range(count)), long):
        yield row | {"loss_weights": rng.uniform(0, 5, size=n_tokens).astype(np.float32)}


@pytest.fixture(scope="module")
def prepared(make_tiny, tmp_path_factory):
    def prepare():
        folder = tmp_path_factory.mktemp("context")
        rows = interleave(some_rows(8, N_LONG, True), some_rows(8, N_SHORT, False), 4)
        # Two are beyond the last whole batch.
        store(rows + rows[:2], folder / "data")
        for seed, name in ((0, "start"), (5, "original")):
            make_tiny(seed).save_pretrained(folder / name)
        return folder

    return prepare


def trained(launch, folder, cases, n_processes):
    launch(PROCESS, folder, n_processes, json.dumps({name: asdict(stage) for name, stage in cases.items()}))
    return folder, json.loads((folder / "seen.json").read_text())


@pytest.fixture(scope="module")
def by_two(launch, prepared):
    return trained(launch, prepared(), CASES, 2)


@pytest.fixture(scope="module")
def by_four(launch, prepared):
    return trained(launch, prepared(), FOUR, 4)


@pytest.mark.parametrize("name", [*CASES, *FOUR])
@pytest.mark.slow
def test_split_samples_train_the_same_model_as_whole_ones(name, request):
    folder, seen = request.getfixturevalue("by_four" if name in FOUR else "by_two")
    stage = (CASES | FOUR)[name]
    stage = replace(stage, setup=replace(stage.setup, sequence_parallel=1))
    positions, dataset = Collator(METHODS["longrecipe"], 128, 3), load_from_disk(str(folder / "data"))
    start, original = (partial(load, folder / which) for which in ("start", "original"))
    alone = run_stage(start, dataset, positions, stage=stage, folder=folder / f"{name}-alone", original=original)
    losses, n_tokens, resumed_from = seen[name]
    assert losses == pytest.approx(alone.losses, rel=1e-5)
    assert n_tokens == alone.n_tokens == 2 * 4 * (N_LONG + N_SHORT)
    assert resumed_from == (2 if name == "resumed" else None)
    assert alone.losses[-1] != pytest.approx(alone.losses[0], rel=1e-2)
    whole, split, before = (
        load_file(path / "model.safetensors") for path in (alone.folder, folder / name / "model", folder / "start")
    )
    assert whole.keys() == split.keys()
    for key, tensor in whole.items():
        torch.testing.assert_close(split[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    assert max((tensor - before[key]).abs().max() for key, tensor in whole.items()) > 1e-3
    assert load(folder / name / "model").config._attn_implementation == "sdpa"
    assert "sequence_parallel" not in (folder / name / "model" / "config.json").read_text()


@pytest.mark.slow
def test_check_passes_for_split_attention_and_fails_for_faulty_ones(launch, tmp_path):
    launch(GUARD, tmp_path, 2)
    found = [json.loads((tmp_path / f"{part}.json").read_text()) for part in range(2)]
    assert found[0] == found[1]
    for name in ("llama3", "mistral", "qwen2", "bfloat16"):
        assert found[0][name] is None, name
    for name, logits, gradients in (("cutting", True, False), ("misplaced", True, True), ("own_only", False, True)):
        assert "differs from that of the whole sample" in found[0][name], name
        apart = [float(found[0][name].split(f"{what} ")[1].split()[0]) for what in ("logits differ by", "gradients by")]
        assert [number > 0.1 for number in apart] == [logits, gradients], name


# cutting


def batch_of(n_tokens, n_rows=2):
    rows = [row | {"key": key} for key, row in enumerate(some_rows(n_rows, n_tokens, True))]
    return Collator(METHODS["longrecipe"], 128, 3)(rows)


def test_five_tokens_cut_into_two_parts():
    ids = torch.arange(10, 15)[None]
    batch = {"input_ids": ids, "labels": ids, "position_ids": torch.tensor([[0, 1, 7, 8, 9]])}
    batch |= {"attention_mask": torch.ones_like(ids), "long": torch.tensor([True])}
    batch |= {"loss_weights": torch.tensor([[9.0, 0.5, 1.0, 1.5, 2.0]])}
    first, second = (cut(batch, Context(part, 2)) for part in (0, 1))
    assert first["input_ids"].tolist() == [[10, 11, 0, 0]] and second["input_ids"].tolist() == [[12, 13, 14, 0]]
    assert first["shift_labels"].tolist() == [[11, 12, -100, -100]]
    assert second["shift_labels"].tolist() == [[13, 14, -100, -100]]
    # The weights of the next tokens, as the labels.
    assert first["loss_weights"].tolist() == [[0.5, 1.0, 0, 0]]
    assert second["loss_weights"].tolist() == [[1.5, 2.0, 0, 0]]
    assert first["position_ids"].tolist() == [[0, 1, 9, 9]] and second["position_ids"].tolist() == [[7, 8, 9, 9]]
    assert first["attention_mask"].tolist() == [[1, 1, 0, 0]] and second["attention_mask"].tolist() == [[1, 1, 1, 0]]
    assert first["n_tokens"].tolist() == second["n_tokens"].tolist() == [5] and first["long"].tolist() == [True]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("n_tokens", [32, 37, 39])
def test_parts_together_are_the_whole_sample(parts, n_tokens):
    batch = batch_of(n_tokens)
    cuts = [cut(batch, Context(part, parts)) for part in range(parts)]
    sizes = {x.shape for part in cuts for name, x in part.items() if name not in ("long", "n_tokens")}
    size = -(-n_tokens // (2 * parts))
    assert sizes == {(2, 2 * size)}
    chunks = {}
    for r, part in enumerate(cuts):
        chunks |= {r: (part, slice(0, size)), 2 * parts - 1 - r: (part, slice(size, None))}
    whole = {
        name: torch.cat([chunks[i][0][name][:, chunks[i][1]] for i in range(2 * parts)], dim=1)
        for name in ("input_ids", "position_ids", "shift_labels", "attention_mask")
    }
    for name in ("input_ids", "position_ids"):
        assert torch.equal(whole[name][:, :n_tokens], batch[name])
    assert torch.equal(whole["shift_labels"][:, : n_tokens - 1], batch["labels"][:, 1:])
    assert (whole["shift_labels"][:, n_tokens - 1 :] == -100).all()
    assert torch.equal(whole["attention_mask"].sum(dim=1), torch.tensor([n_tokens] * 2))
    assert all(part["attention_mask"].any() for part in cuts)


def test_samples_that_cannot_be_split_are_refused():
    batch = batch_of(30)
    with pytest.raises(
        ValueError, match="samples of 30 tokens are too short to split into sequence_parallel = 16 parts"
    ):
        cut(batch, Context(0, 16))
    batch["attention_mask"][1, 3] = 0
    with pytest.raises(ValueError, match="attention_mask hides tokens"):
        cut(batch, Context(0, 2))


def test_split_collator_uses_the_epoch_of_its_inner_collator():
    inner = Collator(METHODS["longrecipe"], 128, 3)
    rows = [row | {"key": key} for key, row in enumerate(some_rows(2, 38, True))]
    outer = SplitCollator(inner, Context(1, 2, group=object()))
    before = outer(rows)["position_ids"]
    inner.epoch = 1
    assert not torch.equal(outer(rows)["position_ids"], before)
    assert outer.context.group is None


@pytest.mark.parametrize("n_samples", [8, 11])
def test_groups_get_the_same_batches_as_single_processes(n_samples):
    assert reading_order(5, 2, 2) == [0, 1, 0, 1, 2, 3, 2, 3]
    for batch_size, parts, groups in ((2, 2, 1), (1, 3, 2), (2, 2, 2)):
        order = reading_order(n_samples, batch_size, parts)
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        world = parts * groups
        for step in range(len(batches) // world):
            dealt = batches[step * world : (step + 1) * world]
            for process, batch in enumerate(dealt):
                start = (step * groups + process // parts) * batch_size
                assert batch == list(range(start, start + batch_size))
        assert len(batches) // world == n_samples // (batch_size * groups)


# refusals


@pytest.mark.parametrize(
    ("world", "parts", "batch_size", "message"),
    [
        (1, 2, 4, r"sequence_parallel = 2 needs a multiple of 2 processes, but 1 are .* torchrun --nproc_per_node 2 "),
        (3, 2, 4, r"but 3 are running: .* torchrun --nproc_per_node 2 "),
        (9, 4, 4, r"but 9 are running: .* torchrun --nproc_per_node 8 "),
        (4, 2, 3, r"batch_size = 3 does not split among 2 groups of 2 processes"),
    ],
)
def test_wrong_number_of_processes_is_refused(
    world, parts, batch_size, message, make_tiny, dataset, tmp_path, monkeypatch
):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    stage = replace(STAGE, batch_size=batch_size, setup=replace(PLAIN, sequence_parallel=parts))
    with pytest.raises(ValueError, match=message):
        run_stage(make_tiny, dataset, Collator(METHODS["flt"], 128, 3), stage=stage, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_models_without_full_attention_or_with_dynamic_rope_are_refused(make_tiny):
    for family in FAMILIES.values():
        check_splittable(AutoModelForCausalLM.from_config(family.mini_config()))
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    sliding = MistralConfig(**shape, sliding_window=16)
    mixed = Qwen2Config(**shape, use_sliding_window=True, sliding_window=16, max_window_layers=1)
    for config, what in ((sliding, "sliding window of 16|sliding_attention"), (mixed, "sliding_attention")):
        with pytest.raises(ValueError, match=what):
            check_splittable(AutoModelForCausalLM.from_config(config))
    yarn, dynamic = (
        make_tiny(rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}) for kind in ("yarn", "dynamic")
    )
    check_splittable(yarn)
    with pytest.raises(ValueError, match="rope_type = 'dynamic'"):
        check_splittable(dynamic)
