import itertools
import math
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

from longrecipe import cost, models
from longrecipe.cost import GB, flops_per_token, training_flops, training_memory
from longrecipe.cost.record import record_of
from longrecipe.settings import Setup

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 24,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
KINDS = [LlamaConfig, MistralConfig, Qwen2Config]
LLAMA, MISTRAL, QWEN = (models.config_of(name, "paper") for name in ("llama3", "mistral", "qwen2"))


def small(kind=LlamaConfig, layers=2, **changes):
    return kind(**SHAPE | {"num_hidden_layers": layers} | changes)


class TestFlops:
    def test_flops_equal_those_counted_by_hand(self):
        config = small(tie_word_embeddings=True)
        # A block: q and out 64 x 96, k and v 64 x 48, three of the MLP, two norms; and the last norm.
        blocks = 2 * (2 * 64 * 96 + 2 * 64 * 48 + 3 * 64 * 192 + 2 * 64) + 64
        assert cost.counts(config) == cost.Counts(blocks, embeddings=96 * 64, own_head=0)
        one = flops_per_token(config, 50)
        assert (one.linear, one.head) == (6 * blocks, 6 * 96 * 64)
        # 12 for each layer, head, dimension of a head and half of the 50 tokens.
        assert one.attention == 12 * 2 * 4 * 24 * 25
        assert one.recompute == 0 and one.model == one.total == one.linear + one.attention + one.head
        assert training_flops(config, 400, 50) == 400 * one.model

    def test_checkpointing_repeats_the_forward_pass_of_the_blocks(self):
        one, again = (flops_per_token(small(), 50, checkpointing) for checkpointing in (False, True))
        assert again.model == one.model
        # All but the last matrix of each block, 64 x 192: the backward pass does not need its output.
        assert again.total - one.total == (one.linear + one.attention) / 3 - 2 * 2 * 64 * 192

    @pytest.mark.parametrize(
        ("config", "billions"), [(LLAMA, 8.030261248), (MISTRAL, 7.248023552), (QWEN, 7.615616512)]
    )
    def test_models_of_the_paper_have_their_published_sizes(self, config, billions):
        assert cost.counts(config).total == billions * 1e9

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("tied", [True, False])
    def test_counts_equal_those_of_the_model(self, kind, tied):
        config = small(kind, tie_word_embeddings=tied)
        network = AutoModelForCausalLM.from_config(config)
        found = cost.counts(config)
        assert found.total == network.num_parameters()
        assert found.own_head == (0 if tied else 96 * 64)
        # Input embeddings are not multiplied, so an untied head takes as many FLOPs as a tied one.
        assert training_flops(config, 7, 50) == training_flops(small(kind, tie_word_embeddings=not tied), 7, 50)

    @pytest.mark.parametrize("tied", [True, False])
    def test_flops_of_matrices_equal_those_of_the_torch_counter(self, tied):
        # torch counts executed FLOPs: both halves of the mask, as attention is eager, and no norms.
        from torch.utils.flop_counter import FlopCounterMode

        config = small(tie_word_embeddings=tied, attn_implementation="eager")
        network, n = AutoModelForCausalLM.from_config(config), 32
        ids = torch.randint(0, 96, (2, n))
        with FlopCounterMode(display=False) as counter:
            network(ids, labels=ids, use_cache=False).loss.backward()
        one = flops_per_token(config, n)
        norms = 6 * (2 * 2 + 1) * 64
        expected = 2 * n * (one.linear - norms + 2 * one.attention + one.head)
        assert counter.get_total_flops() == pytest.approx(expected, rel=0.02)

    @pytest.mark.parametrize(("config", "share"), [(LLAMA, 0.149), (MISTRAL, 0.146), (QWEN, 0.158)])
    def test_sample_of_30_percent_costs_a_sixth_of_the_whole_at_128k(self, config, share):
        n = int(0.3 * 131072)
        for checkpointing in (False, True):
            short, whole = (flops_per_token(config, length, checkpointing) * length for length in (n, 131072))
            assert short.total / whole.total == pytest.approx(share + 0.004, abs=0.004)
            # Linear layers cost the share of the tokens, attention its square.
            assert short.linear / whole.linear == pytest.approx(0.3, abs=1e-4)
            assert short.attention / whole.attention == pytest.approx(0.09, abs=1e-4)

    def test_mini_has_the_cost_profile_of_large_models(self):
        config = models.config_of("llama3")
        whole = flops_per_token(config, 4096)
        assert whole.attention / whole.model == pytest.approx(0.70, abs=0.01)
        assert training_flops(config, 0.3, 1228) / training_flops(config, 1, 4096) == pytest.approx(0.154, abs=0.002)


def kept_bytes(config, n, checkpointing=False):
    """Bytes that autograd keeps for the backward pass, without parameters and without a loss."""
    network = AutoModelForCausalLM.from_config(config).to(torch.bfloat16).train()
    if checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    known = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in known:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(1, n, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # Keep the output until storages are counted, as freed ones would be reused.
        out = network(ids, attention_mask=torch.ones_like(ids), position_ids=ids.cumsum(1) * 3, use_cache=False)
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del out
    return total


class TestMemory:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        "change", [{}, {"hidden_size": 96}, {"intermediate_size": 100}, {"num_key_value_heads": 4}]
    )
    def test_activations_of_a_block_equal_those_that_autograd_keeps(self, kind, change):
        n, configs = 128, [small(kind, layers, attn_implementation="sdpa", **change) for layers in (1, 2)]
        one, two = (kept_bytes(config, n) for config in configs)
        assert two - one == n * cost.activation_bytes(configs[0])

    def test_checkpointing_keeps_the_input_of_a_block(self):
        n, configs = 128, [small(layers=layers) for layers in (2, 3)]
        two, three = (kept_bytes(config, n, checkpointing=True) for config in configs)
        assert three - two == pytest.approx(n * 2 * 64, rel=0.02)

    def test_memory_equals_that_counted_by_hand(self):
        config, n = small(), 1000
        N, kept = cost.counts(config).total, cost.activation_bytes(config)
        got = training_memory(config, n, Setup(checkpointing=False, fused_loss=False, optimizer="adamw_bf16"))
        assert (got.weights, got.gradients, got.optimizer) == (2 * N, 2 * N, 4 * N)
        assert got.checkpoints == 2 * n * kept
        assert got.logits == 12 * 96 * n
        assert got.peak == 8 * N + got.checkpoints + got.runtime + max(got.block, got.logits)
        assert got.allocated == got.peak - got.runtime
        assert sum(v for k, v in got.gigabytes().items() if k not in ("peak", "host")) >= got.peak / 1e9

    def test_step_of_one_batch_has_its_gradients_or_its_kept_inputs(self):
        config, n, setup = small(), 10_000, Setup(optimizer="adamw_bf16")
        many, one = (training_memory(config, n, setup, accumulated=x) for x in (True, False))
        head, kept = 2 * 96 * 64, 2 * 64 * n
        assert (many.gradients, many.checkpoints) == (2 * cost.counts(config).total, 2 * kept)
        # The kept inputs are larger than the gradients: the peak is at the start. With few tokens it is at the end.
        assert (one.gradients, one.checkpoints) == (head, 2 * kept)
        short = training_memory(config, 10, setup, accumulated=False)
        assert (short.gradients, short.checkpoints) == (many.gradients - head, kept / 1000)
        tied = training_memory(small(tie_word_embeddings=True), 10, setup, accumulated=False)
        assert tied.gradients == 2 * cost.counts(small(tie_word_embeddings=True)).total

    def test_modelled_peaks_are_near_those_measured_on_a_gpu(self):
        record = record_of("gpu")
        for name, case in record["cases"].items():
            config, setup = models.config_of(case["model"], "paper"), Setup(**case["setup"])
            need = training_memory(config, case["n_tokens"], setup, accumulated=False)
            off = need.allocated / GB / case["measured"]["peak_gb"] - 1
            # Never below, so that --check does not promise too much.
            assert 0 <= off < 0.02, f"{name}: {off:.1%}"

    def test_every_saving_reduces_its_part(self):
        base = Setup(checkpointing=False, fused_loss=False, optimizer="adamw_fp32", fp32_weights=True)
        savings = {
            "weights": {"fp32_weights": False},
            "gradients": {"fp32_weights": False},
            "optimizer": {"optimizer": "adamw_8bit"},
            "checkpoints": {"checkpointing": True},
            "logits": {"fused_loss": True},
        }
        before = training_memory(LLAMA, 38400, base)
        for part, change in savings.items():
            after = training_memory(LLAMA, 38400, replace(base, **change))
            assert getattr(after, part) < 0.75 * getattr(before, part), part
            assert after.peak < before.peak or part == "logits"

    def test_kept_outputs_of_attention_cost_memory_and_save_time(self):
        setups = Setup(), Setup(keep_attention=True)
        plain, kept = (training_memory(LLAMA, 38400, setup) for setup in setups)
        # 32 heads of 128 in bfloat16, and a log-sum each in float32, in 32 blocks.
        assert kept.checkpoints - plain.checkpoints == 32 * 32 * (2 * 128 + 4) * 38400
        assert kept.peak - plain.peak == kept.checkpoints - plain.checkpoints
        slow, fast = (cost.step_seconds(LLAMA, 38400, cost.DEVICES["H100 80 GB"], setup=setup) for setup in setups)
        assert fast.attention == pytest.approx(0.75 * slow.attention) and fast.linear == slow.linear

    def test_offloaded_parts_are_in_host_memory(self):
        here, away = (training_memory(LLAMA, 38400, Setup(offload_activations=x, offload_optimizer=x)) for x in (0, 1))
        assert here.host == 0 and away.optimizer == 0
        # 32 inputs of blocks, 4096 wide, in bfloat16.
        assert here.checkpoints == 32 * 4096 * 2 * 38400
        # PyTorch gives each of the 32, of 315 MB, the next power of two.
        assert away.host == 32 * 2**29 + here.optimizer
        assert away.checkpoints == here.checkpoints / 32

    def test_gpus_share_memory(self):
        one, eight = (training_memory(LLAMA, 131072, Setup(shards=k, sequence_parallel=k)) for k in (1, 8))
        for part in ("gradients", "optimizer", "checkpoints"):
            assert getattr(eight, part) == pytest.approx(getattr(one, part) / 8)
        # Every part gathers the keys and values of the whole sample, 8 heads of 128, and makes gradients for them.
        assert eight.block == pytest.approx(one.block / 8 + 2 * 2 * 2 * 8 * 128 * 131072)
        assert one.weights / 8 < eight.weights < one.weights / 4

    @pytest.mark.parametrize("config", [LLAMA, MISTRAL, QWEN])
    def test_recipe_of_the_paper_fits_one_gpu_of_80_gb_and_full_length_does_not(self, config):
        assert cost.check_fits(config, 38400, gpu_bytes=80e9, host_bytes=100e9).peak < 76e9
        with pytest.raises(cost.DoesNotFitError):
            cost.check_fits(config, 131072, gpu_bytes=80e9, host_bytes=100e9)

    def test_invalid_setups_are_an_error(self):
        with pytest.raises(ValueError, match=re.escape("optimizer = 'sgd': allowed are adamw_fp32, adamw_bf16")):
            Setup(optimizer="sgd")
        with pytest.raises(ValueError, match="shards = 0"):
            Setup(shards=0)
        with pytest.raises(ValueError, match="set checkpointing"):
            Setup(checkpointing=False, offload_activations=True)


class TestAdvice:
    WASTEFUL = Setup(optimizer="adamw_fp32", fp32_weights=True, checkpointing=False, fused_loss=False)

    def test_message_names_needed_and_available_memory(self):
        with pytest.raises(cost.DoesNotFitError) as raised:
            cost.check_fits(LLAMA, 38400, gpu_bytes=80e9, host_bytes=100e9, setup=self.WASTEFUL)
        message = str(raised.value)
        assert "38,400 tokens need about 452 GB" in message and "available are 80 and 100" in message
        assert "on this GPU with fused_loss = True; checkpointing = True; optimizer = adamw_8bit" in message

    @pytest.mark.parametrize(("gpu", "tokens"), list(itertools.product((24e9, 40e9, 80e9), (8192, 38400, 131072))))
    def test_advised_settings_fit(self, gpu, tokens):
        try:
            cost.check_fits(LLAMA, tokens, gpu_bytes=gpu, host_bytes=100e9)
            return
        except cost.DoesNotFitError as error:
            message = str(error)
        advised = 0
        if found := re.search(r"samples of ([\d,]+) tokens", message):
            assert cost.check_fits(LLAMA, int(found[1].replace(",", "")), gpu_bytes=gpu, host_bytes=100e9)
            advised += 1
        if found := re.search(r"on this GPU with ([^.]*?)(; or |\.)", message):
            changes = dict(each.split(" = ") for part in found[1].split("; ") for each in part.split(", "))
            values = {name: {"True": True, "False": False}.get(v, v) for name, v in changes.items()}
            assert cost.check_fits(LLAMA, tokens, gpu_bytes=gpu, host_bytes=100e9, setup=Setup(**values))
            advised += 1
        if found := re.search(r"(\d+) such GPUs", message):
            advised += 1
        assert advised, message

    def test_one_sample_at_a_time_is_advised_first(self):
        with pytest.raises(cost.DoesNotFitError, match="These would fit: one sample at a time, with gradient accumul"):
            cost.check_fits(LLAMA, 38400, gpu_bytes=80e9, host_bytes=100e9, batch_size=4)

    def test_too_little_host_memory_is_an_error(self):
        with pytest.raises(cost.DoesNotFitError, match=r"17 GB of host memory; available are 80 and 5\."):
            cost.check_fits(LLAMA, 38400, gpu_bytes=80e9, host_bytes=5e9, setup=Setup(offload_activations=True))

    def test_message_says_if_no_setup_fits(self):
        with pytest.raises(cost.DoesNotFitError, match="No known setup fits"):
            cost.check_fits(LLAMA, 131072, gpu_bytes=2e9, host_bytes=1e9)


class TestTime:
    DEVICE = cost.Device(
        "made up", 80e9, peak_flops=1e12, matmul_flops=5e11, attention_flops=2e11, bandwidth=1e11, host_bandwidth=1e10
    )

    def test_seconds_equal_those_counted_by_hand(self):
        config, n = small(), 1000
        one, N = flops_per_token(config, n), cost.counts(config).total
        setup = Setup(checkpointing=False, optimizer="adamw_bf16")
        got = cost.step_seconds(config, n, self.DEVICE, setup=setup, batch_size=2, batches=3)
        assert got.linear == pytest.approx(6 * n * (one.linear + one.head) / 5e11)
        assert got.attention == pytest.approx(6 * n * one.attention / 2e11)
        # Two blocks, H 64, queries 96 wide, keys and values 48 each, F 192; the loss in chunks of 4096 tokens of a
        # vocabulary of 96, three times; gradients are added twice.
        blocks = 2 * (298 * 64 + 52 * (96 + 48) + 28 * 192)
        loss = 2 * n * (64 * 96 + 142 * 64) + 96 * 64 * (10 + 20)
        assert got.traffic == pytest.approx((3 * (2 * n * blocks + loss) + 2 * 6 * N) / 1e11)
        # Weights and moments read and written, gradients read and freed, 2 bytes each.
        assert got.optimizer == pytest.approx(14 * N / 1e11) and got.offload == 0
        assert got.total == pytest.approx(got.linear + got.attention + got.traffic + got.optimizer)

    def test_recomputation_takes_time_and_lowers_mfu(self):
        plain, again = (
            cost.step_seconds(LLAMA, 38400, self.DEVICE, setup=Setup(checkpointing=x)) for x in (False, True)
        )
        assert again.attention == pytest.approx(plain.attention * 4 / 3)
        ideal = flops_per_token(LLAMA, 38400).model * 38400 / self.DEVICE.peak_flops
        assert cost.mfu(LLAMA, 38400, self.DEVICE, seconds=ideal) == pytest.approx(1)
        assert (
            cost.mfu(LLAMA, 38400, self.DEVICE, seconds=again.total)
            < cost.mfu(LLAMA, 38400, self.DEVICE, seconds=plain.total)
            < 0.5
        )

    def test_compiled_blocks_move_less(self):
        config, n = small(), 1000
        plain, compiled = (cost.traffic_bytes(config, n, Setup(compile=x, fused_loss=False)) for x in (False, True))
        # Of 298 + 78, 52 + 20 and 28 + 10 bytes: see `traffic_bytes`.
        saved = 2 * n * ((376 - 52) * 64 + (72 - 12) * (96 + 48) + (38 - 22) * 192)
        assert plain - compiled == pytest.approx(saved)

    def test_compiled_blocks_save_about_the_time_that_torchtitan_measured(self):
        # Llama-3.1-8B on H100s of 2.4 TB/s, two samples of 8192: 5,762 tokens a second, 6,667 compiled
        # (torchtitan, see results/published_speeds.csv). Its saving, in seconds for each token.
        measured = 1 / 5762 - 1 / 6667
        setups = (Setup(checkpointing=False, fused_loss=False, compile=x) for x in (False, True))
        device = replace(cost.DEVICES["H100 80 GB"], bandwidth=2.4e12)
        slow, fast = (cost.step_seconds(LLAMA, 8192, device, setup=setup, batch_size=2).total for setup in setups)
        assert (slow - fast) / 16384 == pytest.approx(measured, rel=0.25)

    def test_offloading_copies_every_input_twice(self):
        got = cost.step_seconds(LLAMA, 38400, self.DEVICE, setup=Setup(offload_activations=True), batches=96)
        assert got.offload == pytest.approx(96 * 2 * 32 * 4096 * 2 * 38400 / 1e10)

    @pytest.mark.parametrize("name", cost.DEVICES)
    def test_rates_stay_below_the_peak(self, name):
        device = cost.DEVICES[name]
        assert device.attention_flops < device.matmul_flops < device.peak_flops and not device.measured
        # Stage 1 of the paper: 104 steps of 96 samples. Its table has 30 hours on two A800 and 20 on two H100.
        seconds = cost.step_seconds(LLAMA, 38400, device, batches=96)
        assert 0.4 < cost.mfu(LLAMA, 38400, device, seconds=seconds.total / 96) < 0.5

    def test_device_has_the_rates_of_a_record(self):
        rates = {"matmul_flops": 3e11, "attention_flops": 1e11, "bandwidth": 7e9}
        device = cost.device_of({"device": "x86_64", "rates": rates})
        assert device.measured and device.name == "x86_64"
        step = cost.step_seconds(small(), 1000, device, setup=Setup(checkpointing=False))
        assert step.linear + step.attention + step.traffic == pytest.approx(step.total - step.optimizer)
        gpu = cost.device_of({"device": "a GPU", "memory_gb": 85.0, "rates": rates | {"host_bandwidth": 5e10}})
        assert (gpu.memory_bytes, gpu.host_bandwidth) == (85e9, 5e10)


class TestPlan:
    H100 = cost.DEVICES["H100 80 GB"]

    def test_gpu_hours_include_all_steps(self):
        one = cost.step_seconds(LLAMA, 38400, self.H100, batches=96).total / 3600
        assert cost.gpu_hours(LLAMA, 38400, 104 * 96, device=self.H100) == pytest.approx(104 * one)

    def test_gpus_needed_is_the_smallest_number_that_fits(self):
        assert [cost.gpus_needed(LLAMA, n, self.H100) for n in (38400, 131072)] == [1, 2]
        split = Setup(shards=2, sequence_parallel=2)
        assert training_memory(LLAMA, 131072, split).peak <= self.H100.memory_bytes
        assert math.isnan(cost.gpus_needed(LLAMA, 10**8, self.H100))

    @pytest.mark.parametrize("setup", [Setup(), Setup(offload_activations=True)])
    def test_longest_sample_fits_and_a_longer_one_does_not(self, setup):
        n = cost.longest_sample(LLAMA, gpu_bytes=80e9, host_bytes=20e9, setup=setup)
        assert cost.check_fits(LLAMA, n, gpu_bytes=80e9, host_bytes=20e9, setup=setup)
        with pytest.raises(cost.DoesNotFitError):
            cost.check_fits(LLAMA, n + 1024, gpu_bytes=80e9, host_bytes=20e9, setup=setup)

    def test_longest_sample_is_0_or_the_limit_in_extreme_cases(self):
        assert cost.longest_sample(LLAMA, gpu_bytes=24e9, host_bytes=100e9, setup=Setup()) == 0
        assert cost.longest_sample(small(), gpu_bytes=1e15, host_bytes=1e15, setup=Setup()) == cost.LONGEST
