import subprocess

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, CohereConfig, LlamaConfig

from longrecipe import models
from longrecipe.train.loss import chunked_cross_entropy, fuse_loss, weigh_loss, weighted_cross_entropy


def problem(*, n=70, width=12, vocabulary=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(n, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    labels[::7] = -100
    return hidden, weight, labels


def gradients(loss, *tensors):
    return loss.detach(), *torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("chunk", [1, 16, 70, 4096])
@pytest.mark.parametrize("n_tokens", [None, 33])
def test_loss_and_gradients_equal_those_of_full_logits(chunk, n_tokens):
    hidden, weight, labels = problem()
    reduced = {"reduction": "mean"} if n_tokens is None else {"reduction": "sum"}
    full = F.cross_entropy(hidden @ weight.T, labels, **reduced) / (n_tokens or 1)
    ours = chunked_cross_entropy(hidden, weight, labels, chunk=chunk, n_tokens=n_tokens)
    for got, wanted in zip(gradients(ours, hidden, weight), gradients(full, hidden, weight), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 16, 70])
@pytest.mark.parametrize("n_tokens", [None, 33])
def test_weighted_loss_and_gradients_equal_those_of_full_logits(chunk, n_tokens):
    hidden, weight, labels = problem()
    weights = torch.rand(len(labels), generator=torch.Generator().manual_seed(2)) * 5
    counted = labels != -100
    each = -(hidden @ weight.T).log_softmax(-1)[torch.arange(len(labels)), labels.where(counted, 0)]
    full = (each * weights)[counted].sum() / (n_tokens or counted.sum())
    wanted = gradients(full, hidden, weight)
    more = {"loss_weights": weights, "n_tokens": n_tokens}
    for ours in (
        weighted_cross_entropy(hidden @ weight.T, labels, **more),
        chunked_cross_entropy(hidden, weight, labels, chunk=chunk, **more),
    ):
        for got, expected in zip(gradients(ours, hidden, weight), wanted, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_losses_of_parts_add_up_to_that_of_the_whole():
    logits = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 0.0]]).log_softmax(-1)
    labels, weights = torch.tensor([0, 0, 1, -100]), torch.tensor([0.5, 1.5, 3.0, 9.0])
    wanted = -(0.5 * logits[0, 0] + 1.5 * logits[1, 0] + 3.0 * logits[2, 1]) / 3
    torch.testing.assert_close(weighted_cross_entropy(logits, labels, weights), wanted)
    parts = [weighted_cross_entropy(logits[i], labels[i], weights[i], n_tokens=3) for i in ([0], [1, 3], [2])]
    torch.testing.assert_close(sum(parts), wanted)


def test_gradients_match_finite_differences():
    hidden, weight, labels = problem(n=6, width=3, vocabulary=5, dtype=torch.float64)
    # A step of 1e-3: the loss is summed in float32.
    for tensor in (hidden, weight):
        got = torch.autograd.grad(chunked_cross_entropy(hidden, weight, labels, chunk=4), tensor)[0]
        step = torch.zeros_like(tensor)
        step[2, 1] = 1e-3
        args = [
            (hidden + sign * step, weight) if tensor is hidden else (hidden, weight + sign * step) for sign in (1, -1)
        ]
        up, down = (F.cross_entropy(h @ w.T, labels) for h, w in args)
        assert got[2, 1].item() == pytest.approx(((up - down) / 2e-3).item(), rel=1e-3, abs=1e-6)


def test_ignored_labels_have_no_gradient():
    hidden, weight, labels = problem()
    loss, d_hidden, _ = gradients(chunked_cross_entropy(hidden, weight, labels, chunk=16), hidden, weight)
    assert torch.isfinite(loss)
    assert (d_hidden[labels == -100] == 0).all() and (d_hidden[labels != -100] != 0).any(dim=1).all()


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_error_is_no_larger_than_that_of_full_logits(autocast):
    exact = gradients(F.cross_entropy((p := problem(n=400))[0] @ p[1].T, p[2]), *p[:2])
    dtype = torch.float32 if autocast else torch.bfloat16
    hidden, weight, labels = problem(n=400, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ours = gradients(chunked_cross_entropy(hidden, weight, labels, chunk=64), hidden, weight)
        full = gradients(F.cross_entropy(F.linear(hidden, weight).float(), labels), hidden, weight)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == ours[2].dtype == dtype
    for got, usual, true in zip(ours, full, exact, strict=True):
        scale = true.abs().max()
        assert (got.float() - true).abs().max() / scale <= 1.5 * (usual.float() - true).abs().max() / scale + 1e-3


def small(**changes):
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(
        **shape, num_attention_heads=2, num_key_value_heads=1, bos_token_id=0, eos_token_id=0, **changes
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 3])
def test_fused_loss_gives_the_loss_and_gradients_of_the_plain_model(tied, rows):
    plain, fused = small(tie_word_embeddings=tied), fuse_loss(small(tie_word_embeddings=tied), chunk=10)
    ids = torch.randint(0, 96, (rows, 33), generator=torch.Generator().manual_seed(1))
    batch = {"input_ids": ids, "position_ids": ids[:1].cumsum(1) + torch.zeros_like(ids)}
    batch |= {"attention_mask": torch.ones_like(ids), "labels": ids, "use_cache": False}
    for extra in ({}, {"num_items_in_batch": torch.tensor(50)}):
        losses = [network(**batch, **extra) for network in (plain, fused)]
        assert losses[1].logits is None
        torch.testing.assert_close(losses[1].loss, losses[0].loss, rtol=1e-5, atol=1e-6)
        for network, out in zip((plain, fused), losses, strict=True):
            network.zero_grad()
            out.loss.backward()
        for (name, one), two in zip(plain.named_parameters(), fused.parameters(), strict=True):
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-5, atol=1e-6, msg=name)
    # Labels may be given shifted; here the same ones, without the first half.
    shifted = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    shifted[:, :16] = -100
    part = [network(**batch, shift_labels=shifted).loss for network in (plain, fused)]
    torch.testing.assert_close(part[1], part[0], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(part[1], losses[1].loss)
    # Without labels it gives logits, as before.
    assert torch.equal(fused(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("shifted", [False, True])
def test_networks_weigh_the_loss_of_the_next_token(shifted):
    plain, weighed, fused = small(), weigh_loss(small()), fuse_loss(small(), chunk=10)
    ids = torch.randint(0, 96, (2, 21), generator=torch.Generator().manual_seed(1))
    weights = torch.rand(2, 21, generator=torch.Generator().manual_seed(2)) * 5
    losses = F.cross_entropy(plain(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    wanted = (losses * weights[:, 1:]).sum() / 50
    batch = {"input_ids": ids, "labels": ids, "loss_weights": weights, "num_items_in_batch": torch.tensor(50)}
    if shifted:
        batch["shift_labels"] = F.pad(ids[:, 1:], (0, 1), value=-100)
        batch["loss_weights"] = F.pad(weights[:, 1:], (0, 1), value=7.0)
    expected = torch.autograd.grad(wanted, list(plain.parameters()))
    for network in (weighed, fused):
        found = network(**batch)
        torch.testing.assert_close(found.loss, wanted, rtol=1e-5, atol=1e-6)
        for got, each in zip(torch.autograd.grad(found.loss, list(network.parameters())), expected, strict=True):
            torch.testing.assert_close(got, each, rtol=1e-5, atol=1e-6)
    # Without weights all three are one.
    del batch["loss_weights"]
    torch.testing.assert_close(weighed(**batch).loss, plain(**batch).loss)
    assert torch.equal(weighed(ids).logits, plain(ids).logits)


def test_model_with_fused_loss_saves_and_loads_unchanged(tmp_path):
    network = fuse_loss(models.load("llama3"))
    network.save_pretrained(tmp_path)
    ids = torch.arange(9)[None]
    assert torch.equal(models.load(tmp_path)(ids).logits, models.load("llama3")(ids).logits)


def test_heads_with_bias_or_scaled_logits_are_refused():
    shape = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = CohereConfig(**shape, num_attention_heads=2, num_key_value_heads=1, logit_scale=0.5)
    with pytest.raises(ValueError, match=r"has logit_scale, (.|\n)*set fused_loss: false"):
        fuse_loss(AutoModelForCausalLM.from_config(config))
    network = small()
    network.set_output_embeddings(torch.nn.Linear(32, 96, bias=True))
    with pytest.raises(ValueError, match=r"has (a head with a bias|no linear head)"):
        fuse_loss(network)


PEAK = """
import sys, torch
from longrecipe.system.memory import peak_bytes
from longrecipe.train.loss import chunked_cross_entropy
n, width, vocabulary = 4096, 16, 32768
hidden, weight = torch.randn(n, width, requires_grad=True), torch.randn(vocabulary, width, requires_grad=True)
labels = torch.randint(0, vocabulary, (n,))
start = peak_bytes()
if sys.argv[1] == "full":
    loss = torch.nn.functional.cross_entropy(hidden @ weight.T, labels)
else:
    loss = chunked_cross_entropy(hidden, weight, labels, chunk=256)
loss.backward()
print(peak_bytes() - start)
"""


@pytest.mark.slow
def test_peak_memory_falls_by_the_size_of_the_logits(warm_python):
    peaks = {
        how: int(subprocess.run([warm_python, "-c", PEAK, how], capture_output=True, check=True).stdout)
        for how in ("full", "chunked")
    }
    logits = 4 * 4096 * 32768
    assert peaks["full"] - peaks["chunked"] > logits, peaks
    assert peaks["chunked"] < logits / 4, peaks
