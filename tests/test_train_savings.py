"""Options that save memory train the same model, or one as close as their precision allows."""

import functools
import json
import re
import stat
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounterWithBackend

from longrecipe.data.samples import Collator, store
from longrecipe.positions import METHODS
from longrecipe.settings import Setup
from longrecipe.train import (
    PLAIN,
    Float32Gradients,
    Stage,
    attention_of,
    check_installed,
    options,
    run_stage,
    savings,
    trainer_options,
    weights_dtype,
)
from longrecipe.train.low_bit import without_zero
from longrecipe.train.stage import _on_gpu

STAGE = Stage("extend", steps=3, batch_size=4, learning_rate=1.0e-2, precision="fp32")
BF16 = Setup(optimizer="adamw_bf16", checkpointing=False, fused_loss=False)

COMPILER = pytest.mark.skipif(options.missing_compiler() is not None, reason=f"needs {options.missing_compiler()}")


def trained(make_tiny, rows, folder, *, stage=STAGE, dtype=torch.float32):
    dataset = store(rows, folder / "data")
    result = run_stage(
        lambda: make_tiny().to(dtype),
        dataset,
        Collator(METHODS["longrecipe"], 128, 3),
        stage=stage,
        folder=folder / "run",
    )
    return result, load_file(result.folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"setup": replace(PLAIN, checkpointing=True)},
        {"setup": replace(PLAIN, checkpointing=True, keep_attention=True)},
        {"setup": replace(PLAIN, fused_loss=True, loss_chunk=7)},
        {"accumulation": 2},
        {"accumulation": 4},
        {"accumulation": 4, "setup": replace(PLAIN, checkpointing=True, fused_loss=True, fp32_accumulation=True)},
        pytest.param({"setup": replace(PLAIN, checkpointing=True, keep_attention=True, compile=True)}, marks=COMPILER),
    ],
    ids=str,
)
def test_savings_train_the_same_model(change, weighted, make_tiny, random_rows, tmp_path):
    rows = random_rows(12, weighted=weighted)
    plain, wanted = trained(make_tiny, rows, tmp_path / "plain")
    saving, got = trained(make_tiny, rows, tmp_path / "saving", stage=replace(STAGE, **change))
    assert saving.losses == pytest.approx(plain.losses, rel=1e-5)
    assert saving.n_tokens == plain.n_tokens
    for name in wanted:
        # The first steps of Adam divide by the size of the gradients, which amplifies rounding of small ones.
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [{}, {"checkpointing": True}, {"checkpointing": True, "keep_attention": True}, {"fused_loss": True}],
    ids=str,
)
def test_compiled_blocks_train_the_same_model(change, make_tiny, random_rows, tmp_path, monkeypatch):
    compiled, setup = CompileCounterWithBackend("aot_eager"), replace(PLAIN, **change)
    monkeypatch.setattr(savings, "COMPILER", compiled)
    plain, wanted = trained(make_tiny, random_rows(12), tmp_path / "plain", stage=replace(STAGE, setup=setup))
    stage = replace(STAGE, setup=replace(setup, compile=True))
    got, weights = trained(make_tiny, random_rows(12), tmp_path / "compiled", stage=stage)
    # One graph for all blocks, which has all of their operations.
    assert compiled.frame_count == 1
    assert got.losses == plain.losses
    for name in wanted:
        assert torch.equal(weights[name], wanted[name]), name


@pytest.mark.slow
def test_saved_model_has_no_trace_of_memory_options(make_tiny, random_rows, tmp_path):
    for use_cache in (True, False):
        dataset = store(random_rows(12), tmp_path / f"data-{use_cache}")
        stage = replace(STAGE, setup=replace(PLAIN, checkpointing=True))
        start, folder = functools.partial(make_tiny, use_cache=use_cache), tmp_path / f"run-{use_cache}"
        folder = run_stage(start, dataset, Collator(METHODS["longrecipe"], 128, 3), stage=stage, folder=folder).folder
        settings = json.loads((folder / "config.json").read_text())
        assert settings["use_cache"] is use_cache
        assert settings["rope_theta"] == settings["rope_parameters"]["rope_theta"] == 10_000
        assert settings["torch_dtype"] == settings["dtype"] == "float32"
        # All files have the same mode.
        assert len({stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}) == 1


def test_float32_sums_keep_small_gradients():
    weight = torch.nn.Parameter(torch.zeros(8, dtype=torch.bfloat16))
    module = torch.nn.Module()
    module.weight, values = weight, [1.0] + 95 * [2.0**-9]
    sums = Float32Gradients(module)
    for value in values:
        (weight * value).sum().backward()
    assert weight.grad is None
    sums.restore()
    # Every summand but the first is below half of the last bfloat16 digit of 1.
    assert (weight.grad.float() - sum(values)).abs().max() < 2.0**-8
    assert not sums.sums
    sums.remove()
    weight.grad = None
    for value in values:
        (weight * value).sum().backward()
    assert (weight.grad == 1).all()


def test_float32_weights_keep_their_own_gradients():
    module = torch.nn.Linear(3, 2)
    sums = Float32Gradients(module)
    module(torch.ones(1, 3)).sum().backward()
    assert module.weight.grad is not None and not sums.sums


@pytest.mark.slow
def test_float32_sums_of_96_batches_are_more_exact_than_bfloat16(make_tiny, random_rows):
    rows = [{"key": i, **row} for i, row in enumerate(random_rows(96))]
    plain, summed, single = (make_tiny().to(torch.bfloat16) for _ in range(3))
    sums, exact = Float32Gradients(summed), [torch.zeros_like(p, dtype=torch.float64) for p in single.parameters()]
    for ids in Collator(METHODS["longrecipe"], 128, 3)(rows)["input_ids"]:
        single.zero_grad()
        for network in (plain, summed, single):
            network(input_ids=ids[None], labels=ids[None]).loss.backward()
        for total, parameter in zip(exact, single.parameters(), strict=True):
            total += parameter.grad
    sums.restore()
    errors = [
        sum((p.grad - total).norm() ** 2 for p, total in zip(network.parameters(), exact, strict=True)) ** 0.5
        for network in (plain, summed)
    ]
    # float32 sums are rounded once to bfloat16, by 0.4 % at most; 96 roundings give several times this error.
    size = sum(total.norm() ** 2 for total in exact) ** 0.5
    assert errors[1] / size < 0.003 and errors[0] > 3 * errors[1], [float(e / size) for e in errors]


def test_update_of_a_weight_without_gradient_is_small_with_moments_of_8_bits(monkeypatch):
    optim = pytest.importorskip("torchao.optim")
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    # The first gradient of one value is small in its block, and its next one is 0: a token that does not occur again.
    first = torch.full((4096,), 0.1)
    first[0] = 1e-5
    weights = []
    for make in (without_zero(optim.AdamW8bit), optim.AdamW8bit, torch.optim.AdamW):
        weight = torch.nn.Parameter(torch.zeros(4096))
        optimizer = make([weight], lr=0.01, weight_decay=0.0)
        for gradient in (first, torch.zeros(4096)):
            weight.grad = gradient.clone()
            optimizer.step()
        weights.append(weight.detach())
    safe, plain, exact = weights
    # Both updates have the size of the learning rate, and torchao's second one is far larger.
    assert plain[0].abs() > 0.2 and exact.abs().max() < 0.02
    torch.testing.assert_close(safe[1:], exact[1:], rtol=0.02, atol=0)
    assert safe.abs().max() < 0.02
    assert without_zero(optim.AdamW4bit) is optim.AdamW4bit


def test_bfloat16_weights_stay_bfloat16(make_tiny, random_rows, tmp_path):
    assert weights_dtype(BF16) == torch.bfloat16 and weights_dtype(PLAIN) == torch.float32
    _, got = trained(make_tiny, random_rows(12), tmp_path, stage=replace(STAGE, setup=BF16), dtype=weights_dtype(BF16))
    assert {tensor.dtype for tensor in got.values()} == {torch.bfloat16}


def test_trainer_options_follow_the_setup():
    assert trainer_options(PLAIN) == {"optim": "adamw_torch_fused"}
    small = trainer_options(Setup(offload_activations=True))
    assert small["optim"] == "adamw_torch_8bit" and small["optim_args"] == "bf16_stochastic_round=True"
    assert small["activation_checkpointing"]
    assert small["activation_checkpointing_kwargs"] == {"use_reentrant": False, "offload": True}
    assert trainer_options(Setup(fp32_weights=True))["optim_args"] == "bf16_stochastic_round=False"


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (Setup(optimizer="adamw_fp32"), "Use adamw_fp32 with fp32_weights"),
        (replace(BF16, fp32_weights=True), "adamw_bf16 without"),
        (replace(BF16, offload_optimizer=True), "accelerate's FSDP or DeepSpeed"),
    ],
)
def test_incompatible_options_are_an_error(setup, message):
    with pytest.raises(ValueError, match=message):
        check_installed(setup)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_offloading_activations_without_gpu_is_an_error():
    with pytest.raises(ValueError, match="needs a GPU to move activations from"):
        check_installed(replace(BF16, checkpointing=True, offload_activations=True))


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=re.escape("pip install 'longrecipe[gpu]'")):
        check_installed(Setup())


def test_missing_compiler_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=r"'no-such-compiler' is not found: .* or set compile to False"):
        check_installed(replace(PLAIN, compile=True))


def test_fused_loss_with_kl_weight_is_an_error():
    with pytest.raises(ValueError, match="fused_loss makes no logits"):
        replace(STAGE, kl_weight=1.0, setup=replace(PLAIN, fused_loss=True))


def test_options_are_checked_before_the_model_is_loaded(random_rows, tmp_path):
    def never():
        raise AssertionError("the model was loaded")

    dataset = store(random_rows(12), tmp_path / "data")
    stage = replace(STAGE, setup=replace(BF16, offload_optimizer=True))
    with pytest.raises(ValueError, match="offload_optimizer"):
        run_stage(never, dataset, Collator(METHODS["flt"], 128, 3), stage=stage, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_stage_is_finished_whatever_the_split_of_its_work(make_tiny, random_rows, tmp_path):
    dataset, collator = store(random_rows(12), tmp_path / "data"), Collator(METHODS["flt"], 128, 3)
    first = run_stage(make_tiny, dataset, collator, stage=STAGE, folder=tmp_path / "run")
    many = replace(STAGE, accumulation=2, setup=replace(PLAIN, shards=8, sequence_parallel=4))
    assert run_stage(make_tiny, dataset, collator, stage=many, folder=tmp_path / "run").losses == first.losses
    with pytest.raises(ValueError, match="with other settings"):
        run_stage(make_tiny, dataset, collator, stage=replace(STAGE, setup=BF16), folder=tmp_path / "run")


def test_accumulation_that_does_not_divide_the_batch_is_an_error():
    with pytest.raises(ValueError, match=re.escape("batch_size = 4 cannot be read in accumulation = 3 equal batches")):
        replace(STAGE, accumulation=3)


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [((8, 0), True, "flash_attention_2"), ((8, 0), False, "sdpa"), ((9, 0), True, "sdpa"), (None, True, "sdpa")],
)
def test_auto_attention_is_flash_attn_on_gpus_older_than_hopper(capability, installed, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: installed or None)
    assert attention_of("auto") == expected and attention_of("eager") == "eager"


@pytest.mark.parametrize(("free", "moved"), [(10**9, ["cuda:1"]), (0, [])])
def test_guard_runs_on_the_gpu_if_the_weights_fit(free, moved, make_tiny, monkeypatch):
    asked, network = [], make_tiny()
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**9))
    monkeypatch.setattr(network, "to", lambda device: asked.append(str(device)) or network)
    assert _on_gpu(network) is network and asked == moved
