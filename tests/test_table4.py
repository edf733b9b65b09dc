import json
from dataclasses import asdict, replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from longrecipe import cost, models
from longrecipe.cost import question as asked
from longrecipe.cost.cases import Case, Reading, gpu_cases, mini_cases
from longrecipe.cost.record import record_of, step_shares
from longrecipe.experiments import quoted, table4
from longrecipe.experiments.table4.tables import ALL_SAVINGS
from longrecipe.settings import ParamsError, Setup
from longrecipe.train import PLAIN

DEFAULTS = {
    "model": "llama3",
    "scale": "paper",
    "method": "longrecipe",
    "target_length": 131072,
    "ratio": 0.3,
    "gpu": "H100 80 GB",
    "host_gb": 100,
    "price_per_gpu_hour": 2.0,
    "tokens_millions": 384,
}


def question(**changed):
    return asked.from_notebook(DEFAULTS | changed)


def record(cases, **about):
    rates = {"matmul_flops": 4e11, "attention_flops": 1e11, "bandwidth": 1e10}
    named = {c.name: asdict(c) | {"n_tokens": c.n_tokens, "measured": found} for c, found in cases.items()}
    return json.loads(json.dumps({"device": "made up", "rates": rates, "cases": named} | about))


def mini_record(off=1.0, times=1.5):
    """Mini's steps, `times` as long as the time model has them; LongRecipe's off times that at every length."""
    cases = dict.fromkeys(mini_cases([256, 4096]))
    device = cost.device_of(record({}))
    for case in cases:
        step = cost.step_seconds(models.config_of("llama3"), case.n_tokens, device, setup=PLAIN, batch_size=8)
        wrong = off if case.method == "longrecipe" else 1.0
        cases[case] = {"seconds_per_step": times * wrong * step.total}
    return record(cases)


class TestQuestion:
    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"gpus": 2}, "Did you mean 'gpu'? Allowed are model, scale, method, target_length, ratio, gpu, host_gb"),
            ({"gpu": "TPU"}, "gpu = 'TPU': allowed are RTX 4090 24 GB, A100 40 GB, A100 80 GB, H100 80 GB"),
            ({"model": "gpt5"}, "paper: llama3, mistral, qwen2"),
            ({"method": "nope"}, "allowed are longrecipe, "),
            ({"method": "none"}, "does not train"),
            ({"ratio": 1.5}, "ratio = 1.5"),
            ({"target_length": "long"}, "target_length = 'long'"),
            ({"target_length": 40}, "at least 16 are needed"),
            ({"price_per_gpu_hour": -1}, "USD"),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_invalid_value_error_lists_allowed_values(self, changed, message):
        with pytest.raises(ParamsError) as raised:
            question(**changed)
        assert message in str(raised.value)

    def test_tokens_of_a_sample_depend_on_the_method(self):
        assert [question(method=name).n_tokens for name in ("flt", "pose:n_chunks=4")] == [131072, 39321]
        assert question(method="flt").n_samples == question().n_samples == pytest.approx(384e6 / 39321)

    def test_check_returns_memory_or_suggests_settings_that_fit(self):
        assert question().check().peak < 80e9
        with pytest.raises(cost.DoesNotFitError, match=r"These would fit: .*such GPUs"):
            question(gpu="RTX 4090 24 GB").check()
        assert question(scale="mini", gpu="RTX 4090 24 GB", target_length=4096).check().peak < 3e9

    def test_families_are_those_of_the_scale_and_the_model(self, tmp_path):
        assert question(scale="mini").families == question().families == ["llama3", "mistral", "qwen2"]
        models.config_of("llama3", "paper").save_pretrained(tmp_path)
        assert question(model=str(tmp_path)).families[-1] == str(tmp_path)


class TestTables:
    def test_memory_table_has_measured_peaks(self):
        base = Case("llama3", "paper", "longrecipe", 131072)
        failed = replace(base, setup=Setup(optimizer="adamw_bf16"))
        broken = replace(base, setup=Setup(offload_activations=True))
        gpu = record(
            {base: {"peak_gb": 70.5}, failed: {"error": "CUDA out of memory"}, broken: {"error": "no such package"}}
        )
        table = table4.memory(question(), gpu)
        assert list(table.index) == list(cost.SAVINGS)
        assert table["measured, one batch"].head(4).tolist() == [70.5, "failed", "too large to try", "out of memory"]
        assert (table["peak, one batch"] < table["peak"]).all()
        assert table.loc["as set up", "peak"] == pytest.approx(question().check().peak / 1e9)
        assert table["peak"].idxmin() == "activations offloaded" and table["peak"].idxmax() == "no checkpointing"
        # Another model's or length's measurement is not this one's.
        for other in (question(model="qwen2"), question(target_length=81920)):
            table = table4.memory(other, gpu)
            too_large = table["peak, one batch"] + 1.5 > 1.1 * 84.9
            assert set(table.loc[~too_large, "measured, one batch"]) == {"not measured"}
            assert set(table.loc[too_large, "measured, one batch"]) == {"too large to try"}

    def test_table_4_has_the_papers_lines_as_they_are(self):
        case = Case("llama3", "paper", "longrecipe", 131072)
        table = table4.table_4(record({case: {"peak_gb": 70.5, "tokens_per_second": 4000.0}}))
        assert table.loc[("GPU memory, GB", "quoted")].tolist() == [56, 104, 64, 72]
        assert table.loc[("hours", "quoted, H100")].tolist() == [16, 20, 15, 28]
        assert (table.loc[("GPUs", "modelled, 80 GB")] == 1).all()
        assert table.loc[("hours", "measured, made up")].tolist() == [
            "not measured",
            pytest.approx(384e6 / 4000 / 3600),
            *["not measured"] * 2,
        ]
        assert (table4.table_4().loc[("hours", "measured")] == "not measured").all()
        ours = table.loc[("GPU memory, GB", "modelled, offloaded")] < table.loc[("GPU memory, GB", "modelled")]
        assert ours.all() and (table.loc[("CPU memory, GB", "modelled")] == 0).all()

    def test_cost_by_length_is_linear_plus_quadratic(self):
        table = table4.by_length(question(target_length=100000))
        assert 100000 in set(table["target"]) and table["target"].min() == 8192
        assert table["target"].max() == 524288
        whole, short = (table[table["sample"] == name].set_index("target") for name in ("FLT", "30%"))
        assert (short["linear"] / whole["linear"]).tolist() == pytest.approx([0.3] * len(whole), rel=1e-3)
        assert (short["attention"] / whole["attention"]).tolist() == pytest.approx([0.09] * len(whole), rel=2e-3)
        assert whole["PFLOP"].tolist() == pytest.approx(whole[["linear", "attention", "head"]].sum(axis=1).tolist())
        assert whole.loc[16384, "attention"] / whole.loc[8192, "attention"] == pytest.approx(4)

    def test_a_short_sample_costs_a_sixth_at_128k(self):
        table = table4.ratios(question())
        papers = table.xs((131072, 38400), level=("target", "n"))["FLOPs"]
        assert papers.round(3).to_dict() == {"llama3": 0.149, "mistral": 0.146, "qwen2": 0.158}
        assert (table["hours"] < 0.19).all() and len(table) == 9
        assert len(table4.ratios(question(scale="mini", target_length=4096))) == 3

    def test_methods_with_equal_samples_cost_the_same(self):
        table = table4.prices(question(method="stratified"))
        assert list(table.index) == ["FLT", "LongRecipe", "PoSE", "RPES", "stratified"]
        assert table.iloc[1:].drop_duplicates().shape[0] == 1
        assert table.loc["FLT", "GPU-hours"] > 6 * table.loc["LongRecipe", "GPU-hours"]
        assert (table["USD"] == 2 * table["GPU-hours"]).all()
        assert table["GPUs needed"].tolist() == [2, 1, 1, 1, 1] and table["MFU"].between(0.3, 0.6).all()

    def test_longest_samples_fit_and_longer_ones_do_not(self):
        table = table4.longest(question())
        for (name, card), row in table.iterrows():
            n, config = int(np.nan_to_num(row["sample, all savings"])), models.config_of(name, "paper")
            room = table4.CARDS[card].memory_bytes
            fits = [cost.training_memory(config, k, ALL_SAVINGS).peak <= room for k in (max(n, 1024), n + 1024)]
            assert fits == [n > 0, False]
            if n:
                assert not row["sample, as set up"] > n and row["target at 30%, all savings"] == n / 0.3
        assert table.xs("24 GB", level="card")["sample, all savings"].isna().all()
        assert table4.longest(question(), gpu_gb=48).index.get_level_values("card").unique() == ["48 GB"]

    def test_record_that_was_not_measured_is_none(self, tmp_path, monkeypatch):
        monkeypatch.setattr("longrecipe.cost.record.results_dir", lambda: tmp_path)
        assert record_of("gpu") is None


class TestClaims:
    def claims(self, *records, **changed):
        return table4.claims(question(**changed), *records)

    def pick(self, claims, *words, label=None):
        (found,) = [each for each in claims if all(word in each.text for word in words) and label in (None, each.label)]
        return found

    def test_the_papers_claims_are_judged_by_its_own_table(self):
        found = self.claims()
        judged = {
            ("Llama-3-8B to 128k", "one GPU of 80 GB"): ("does not hold", "104 GB on 2 GPUs"),
            ("Qwen2-7B to 128k", "one GPU of 80 GB"): ("holds", "72 GB on 1 GPU"),
            ("Llama-3-8B to 128k", "a day on H100"): ("holds", "20 h on 2 GPUs"),
            ("Llama-3-8B to 128k", "a day on A800"): ("does not hold", "30 h on 2 GPUs"),
            ("Qwen2-7B to 128k", "a day on H100"): ("does not hold", "28 h on 1 GPU"),
        }
        for words, expected in judged.items():
            claim = self.pick(found, *words, label="quoted")
            assert (claim.verdict, claim.found) == expected

    def test_each_model_is_judged_alone(self):
        found = self.claims()
        judged = [self.pick(found, model, "38,400 of 131,072", "FLOPs") for model in ("Llama-3", "Mistral", "Qwen2")]
        assert [claim.verdict for claim in judged] == ["holds", "holds", "does not hold"]
        assert [claim.found for claim in judged] == ["85.1 % fewer", "85.4 % fewer", "84.2 % fewer"]
        assert self.pick(found, "Llama-3-8B: 24,576 of 81,920").verdict == "does not hold"
        assert self.pick(found, "Llama-3-8B to 128k", "H100", label="modelled").verdict == "holds"
        assert self.pick(found, "Llama-3-8B to 128k", "A100", label="modelled").verdict == "does not hold"
        assert {claim.verdict for claim in found if claim.label == "measured"} == {"not measured"}

    def test_main_claims_are_those_of_the_model_asked_for(self):
        main = [claim.text for claim in self.claims(mini_record()) if claim.main]
        assert len(main) == 10 and main[0].startswith("Llama-3-8B: 39,321 of 131,072 tokens take 85 % fewer FLOPs")
        main = [claim.text for claim in self.claims(model="qwen2", target_length=81920) if claim.main]
        assert main[0].startswith("Qwen2-7B: 24,576 of 81,920 tokens") and not any(
            "Llama-3-8B" in text for text in main
        )

    @pytest.mark.parametrize(("off", "verdict"), [(1.0, "holds"), (1.14, "holds"), (1.3, "does not hold")])
    def test_the_time_model_is_judged_by_the_measured_ratio(self, off, verdict):
        found = self.claims(mini_record(off))
        assert self.pick(found, "time model gives", "4,096").verdict == verdict
        assert self.pick(found, "time model is within 15% of every step").verdict == "does not hold"

    def test_the_time_model_is_judged_by_every_step(self):
        claim = self.pick(self.claims(mini_record(times=1.1)), "time model is within 15% of every step")
        assert (claim.verdict, claim.found) == ("holds", "measured / modelled seconds from 1.10 to 1.10")

    def test_a_gpus_record_settles_what_was_not_measured(self):
        case = Case("llama3", "paper", "longrecipe", 131072)
        good = record({case: {"peak_gb": 70.5, "tokens_per_second": 5000.0}})
        slow = record({case: {"peak_gb": 90.0, "tokens_per_second": 4000.0}})
        none = record({case: {"error": "CUDA out of memory"}})
        words = ("one GPU of 80 GB",), ("a day on one GPU",)
        for gpu, expected in (
            (good, ["holds", "holds"]),
            (slow, ["does not hold", "does not hold"]),
            (none, ["does not hold", "not measured"]),
        ):
            found = self.claims(None, gpu)
            assert [self.pick(found, *each, label="measured").verdict for each in words] == expected
        assert self.pick(self.claims(None, slow), "a day on one GPU").found == "27 h on one made up"
        # Measured in the setup of params/paper, which comes first.
        away = replace(case, setup=Setup(offload_activations=True))
        both = record({case: {"peak_gb": 90.0}, away: {"peak_gb": 58.0}})
        claim = self.pick(self.claims(None, both), "one GPU of 80 GB", label="measured")
        assert (claim.verdict, claim.found) == (
            "holds",
            "58 GB on one made up, one sample a step, activations offloaded",
        )

    def test_committed_gpu_record_has_cases_of_this_version_and_fills_notebook_05(self):
        gpu = record_of("gpu")
        cases = [case.name for case in gpu_cases(1e9 * gpu["memory_gb"])]
        assert {*gpu["cases"], *gpu["readings"], *gpu["resumes"]} <= set(cases)
        assert not (table4.table_4(gpu) == "not measured").any(axis=None)
        assert not (table4.memory(question(), gpu) == "not measured").any(axis=None)

    def test_published_speeds_are_next_to_ours_and_have_sources(self):
        table = table4.speeds(record_of("gpu"))
        assert table.loc["longrecipe", "tokens/s and GPU"].round().tolist() == [4815, 4967]
        assert table.loc["ml_dataflow", "tokens/s and GPU"].tolist() == [7908, 5487]
        assert table["label"].tolist() == ["measured"] * 2 + ["quoted"] * (len(table) - 2)
        # pandas cuts longer cells.
        assert table["how"].str.len().max() <= 50
        assert quoted.published_speeds()["source"].str.startswith("https://").all()
        assert set(table4.speeds(None)["label"]) == {"quoted"}

    def test_gpu_tables_and_claims_are_those_of_the_record(self):
        base = Case("qwen2", "paper", "longrecipe", 131072)
        full = replace(base, setup=Setup(fp32_accumulation=True, offload_activations=True, optimizer="adamw_4bit"))
        seconds = cost.step_seconds(base.config, base.n_tokens, cost.device_of(record({}))).total
        need = cost.training_memory(base.config, base.n_tokens, accumulated=False)
        found = {"tokens_per_second": 5000.0, "reserved_gb": 65.0, "host_peak_gb": 2.0}
        found |= {"seconds_per_step": 1.1 * seconds, "peak_gb": need.allocated / 1e9}
        resumed = {"measured": {"resumed_from": 4, "steps": 12, "largest_difference": 0.0}}
        gpu = record({base: found, full: {"error": "out of memory: 90 GB"}}, device="NVIDIA H100 80GB HBM3")
        gpu |= {"memory_gb": 85.0, "resumes": {"a": resumed}}
        gpu["rates"] |= {"attention_flops, flash": 1.978e14, "host_bandwidth": 5e10}
        table = table4.gpu_steps(gpu)
        assert [*table.index] == [
            ("Qwen2-7B", "LongRecipe", "128k", 39321, "as set up"),
            ("Qwen2-7B", "LongRecipe", "128k", 39321, "float32 sums, activations offloaded, moments in 4 bits"),
        ]
        first, second = (row for _, row in table.iterrows())
        assert first["modelled s"] == pytest.approx(seconds) and first["GB"] == pytest.approx(first["modelled GB"])
        assert first["MFU"] == pytest.approx(
            cost.mfu(base.config, base.n_tokens, cost.DEVICES["H100 80 GB"], seconds=1.1 * seconds)
        )
        assert second["s"] == second["GB"] == "out of memory"
        assert table4.gpu_rates(gpu)["% of peak"]["attention, flash"] == pytest.approx(20)
        assert [each.verdict for each in table4.gpu_claims(gpu)] == ["holds"] * 3
        resumed["measured"]["largest_difference"] = 0.1
        gpu["cases"][base.name]["measured"] |= {"seconds_per_step": 1.2 * seconds, "peak_gb": 40.0}
        assert [each.verdict for each in table4.gpu_claims(gpu)] == ["does not hold"] * 3
        assert table4.gpu_steps(None).empty and table4.gpu_rates(None).empty and table4.gpu_readings(None).empty
        read = Reading("qwen2", "paper", 131072)
        gpu["readings"] = {read.name: asdict(read) | {"n_tokens": 131072, "measured": {"error": "out of memory"}}}
        assert table4.gpu_readings(gpu).loc[("Qwen2-7B", 131072), "s to read"] == "out of memory"
        assert {each.verdict for each in table4.gpu_claims(None)} == {"not measured"}

    def test_seconds_of_faster_settings_are_next_to_those_measured(self):
        base = Case("llama3", "paper", "longrecipe", 131072)
        gpu = record({base: {"seconds_per_step": 9.0}, replace(base, setup=Setup(compile=True)): {"error": "no such"}})
        table = table4.faster(question(), gpu)
        assert table["measured s"].tolist() == [9.0, "not measured", "failed", "not measured"]
        parts = table[["matrices", "attention", "other kernels", "optimizer"]]
        assert parts.sum(axis=1).tolist() == pytest.approx(table["s"].tolist())
        usual, kept, compiled, both = (row for _, row in table.iterrows())
        assert kept["attention"] == pytest.approx(usual["attention"] * 3 / 4) and kept["GB"] > usual["GB"]
        assert compiled["other kernels"] < usual["other kernels"] / 2 and compiled["matrices"] == usual["matrices"]
        assert (both["attention"], both["other kernels"]) == (kept["attention"], compiled["other kernels"])
        # Without a record, with the rates that are assumed.
        assumed = table4.faster(question(), None)
        assert set(assumed["measured s"]) == {"not measured"}
        seconds = cost.step_seconds(base.config, base.n_tokens, cost.DEVICES["H100 80 GB"])
        assert assumed["s"].iloc[0] == pytest.approx(seconds.total)

    def test_ratios_are_of_seconds_at_the_same_target(self):
        table = table4.mini_ratios(table4.mini_steps(mini_record()))
        assert table.loc[4096, "LongRecipe / FLT, measured"] == pytest.approx(
            table.loc[4096, "LongRecipe / FLT, time model"]
        )
        assert table.loc[4096, "LongRecipe / FLT, FLOPs"] == pytest.approx(0.154, abs=0.001)
        assert table.loc[4096, "FLT, measured / modelled"] == pytest.approx(1.5)
        assert table4.mini_ratios(table4.mini_steps(None)).empty

    def test_failed_case_does_not_affect_others(self):
        broken = mini_record()
        name = next(name for name in broken["cases"] if " rpes T=4096" in name)
        broken["cases"][name]["measured"] = {"error": "killed"}
        table = table4.mini_ratios(table4.mini_steps(broken))
        assert pd.isna(table.loc[4096, "RPES / FLT, measured"]) and table.loc[4096, "PoSE / FLT, measured"] > 0
        assert self.pick(self.claims(broken), "time model gives").verdict == "holds"

    def test_committed_seconds_are_those_of_the_benchmark_in_notebooks_04_and_07(self):
        mini = record_of("mini")
        steps = table4.mini_steps(mini)
        assert {"FLT", "LongRecipe", "PoSE"} <= set(steps["method"]) and (steps["modelled"] > 0).all()
        ratios = table4.mini_ratios(steps)["LongRecipe / FLT, measured"]
        shares = step_shares(mini, "llama3", 4096)
        assert 100 * ratios[4096] == pytest.approx(shares[0.3]) == pytest.approx(14.6, abs=0.05)


class TestShown:
    def test_numbers_have_two_digits_and_what_does_not_fit_is_a_dash(self):
        table = pd.DataFrame({"a": [131072, 104], "b": [1716.2, float("nan")], "c": ["not measured", 0.1538]})
        assert table4.shown(table).to_numpy().tolist() == [["131,072", "1,700", "not measured"], ["104", "–", "0.15"]]
        assert table4.shown(pd.DataFrame({"a": [171622.0, 15.02, 0.0]}), 3)["a"].tolist() == ["172,000", "15.0", "0"]

    def test_figures_state_what_they_draw(self):
        steps = table4.mini_steps(mini_record())
        titles = {
            table4.memory_parts(table4.memory(question()), {"24 GB": 25.2, "80 GB": 84.9}): "fits a card of 80 GB",
            table4.longest_samples(table4.longest(question(), gpu_gb=48), 131072, 39321): "48 GB trains on samples of",
            table4.longest_samples(table4.longest(question(), gpu_gb=24), 131072, 39321): "24 GB does not hold",
            table4.price(table4.prices(question()), 4.0): "At 4.00 USD per GPU-hour",
            table4.step_times(steps, table4.mini_ratios(steps)): "To 4,096 tokens, a step of LongRecipe takes",
            table4.step_times(table4.mini_steps(None), table4.mini_ratios(table4.mini_steps(None))): "Two panels",
        }
        for figure, words in titles.items():
            assert words in figure.get_label()
            plt.close(figure)


class TestStepShares:
    def test_seconds_are_in_percent_of_flts_at_the_same_target(self):
        seconds = {case: {"seconds_per_step": 1e-3 * case.n_tokens} for case in mini_cases([])}
        made = record(seconds)
        shares = step_shares(made, "qwen2", 4096)
        assert list(shares) == [1.0, 0.05, 0.1, 0.2, 0.3, 0.4]
        assert shares[1.0] == 100 and shares[0.3] == pytest.approx(30, abs=0.05)
        assert list(step_shares(made, "qwen2", 2560)) == [1.0, 0.3]
        assert list(step_shares(made, "qwen2", 4096, "pose")) == [1.0, 0.3]

    def test_cases_without_result_are_left_out(self):
        cases = [case for case in mini_cases([]) if case.model == "llama3" and case.target_length == 2560]
        assert step_shares(record({case: {"error": "killed"} for case in cases}), "llama3", 2560) == {}
        assert step_shares(None, "llama3", 2560) == {}
        assert step_shares(record({}), "llama3", 2560) == {}
