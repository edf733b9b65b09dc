"""Standard benchmarks in notebooks: tables of made-up runs, the paper's numbers, the command, and its duration."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from runs import unpadded

from longrecipe import cost, models, results, settings
from longrecipe.bench import duration, harness
from longrecipe.experiments import bench_command, benchmarks, gpt4, table1
from longrecipe.experiments.summary import summary
from longrecipe.system.paths import PACKAGE

LONG, GENERAL = benchmarks.LONG, benchmarks.GENERAL
RULER = {"niah_multikey_1": 0.5, "niah_multivalue": 0.25, "niah_multiquery": 1.0, "ruler_vt": 0.0}
GAINS = {"base": 0.0, "RoPE rule alone": -0.5, "merged": 0.25}
H100 = cost.DEVICES["H100 80 GB"]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """A cache of its own, and no committed runs."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("longrecipe.results.lookup._committed", lambda experiment: {})


def smollm2(**changes):
    return settings.load("smollm2", "small", "cpu", **changes)


def rows_of(stage, suite, task, mean, *, length=0, filter="none", prompts=8, cut=0):
    """Prompts of a task, of which a share is right."""
    score = (np.arange(prompts) < round(mean * prompts)).astype(float)
    about = {"stage": stage, "suite": suite, "task": task, "length": length, "filter": filter, "answer": ""}
    return pd.DataFrame(about | {"prompt": np.arange(prompts), "score": score, "tokens": length or 700}).assign(
        cut=np.arange(prompts) < cut
    )


def save(p, *frames, **versions):
    rows = pd.concat(frames, ignore_index=True)
    return results.save(p, "bench", {"benchmarks": rows}, seconds=600, versions=versions)


def ruler(stages=GAINS, lengths=(2048, 4096), tasks=RULER, **changes):
    return [
        rows_of(stage, "ruler", task, min(1.0, max(0.0, mean + GAINS[stage])), length=n, **changes)
        for stage in stages
        for task, mean in tasks.items()
        for n in lengths
        if n <= 2048 or stage != "base"
    ]


def needles(stages=GAINS, lengths=(2048, 4096)):
    return [rows_of(stage, "needles", "multi-key", 0.5, length=n) for stage in stages for n in lengths]


def general(stages=GAINS):
    for stage in stages:
        yield rows_of(stage, "mmlu", "mmlu_anatomy", 0.5 + GAINS[stage])
        for filter, mean in (("strict-match", 0.5), ("flexible-extract", 0.625)):
            yield rows_of(stage, "gsm8k", "gsm8k", mean + GAINS[stage], filter=filter)


class TestMeasured:
    def test_scores_by_suite_name_missing_tasks_and_lengths_that_were_not_asked(self):
        save(smollm2(), *ruler())
        table = benchmarks.by_suite(benchmarks.answers(smollm2(), LONG))
        names = ["NIAH(M)", "RULER (4 of 13 tasks)"]
        assert list(table.index) == [(name, n) for name in names for n in ("2,048", "4,096")]
        assert list(table.columns) == ["prompts", "tokens", "base", "RoPE rule alone", "merged"]
        assert table.loc[("NIAH(M)", "4,096"), "base"] == "–"
        assert table.loc[("NIAH(M)", "2,048"), "base"].startswith("58.3 [")
        assert table.loc[("RULER (4 of 13 tasks)", "4,096"), ["prompts", "tokens"]].tolist() == ["32", "4,096"]

    def test_scores_by_task(self):
        save(smollm2(), *ruler())
        save(smollm2(bench_limit=8), *needles())
        table = benchmarks.by_task(benchmarks.answers(smollm2(), LONG))
        asked = [("own needles", "multi-key"), *(("RULER", task) for task in RULER)]
        assert list(table.index) == [(*each, n) for each in asked for n in ("2,048", "4,096")]
        cells = table.loc[("RULER", "ruler_vt", "2,048")]
        assert cells["merged"] == "25.0 [7.1, 59.1]" and cells["prompts"] == "8"

    def test_prompts_that_were_cut_are_counted(self):
        save(smollm2(), rows_of("base", "longbench", "longbench_qasper", 0.5, cut=3))
        table = benchmarks.by_suite(benchmarks.answers(smollm2(), LONG))
        ((row, length),) = table.index
        assert (row, length) == ("LongBench (1 of 21 tasks)", "own") and table["base"].item().endswith("], 3 cut")

    def test_methods_targets_and_seeds_have_columns_of_their_own(self):
        save(smollm2(), *ruler(["merged"]))
        save(smollm2(method="pose"), *ruler(["merged"]))
        table = benchmarks.by_suite(benchmarks.answers(smollm2(), LONG))
        assert sorted(table.columns[2:]) == ["LongRecipe, merged", "PoSE, merged"]

    def test_of_equal_runs_that_with_the_most_prompts_counts(self):
        save(smollm2(bench_limit=2), *ruler(prompts=2))
        save(smollm2(bench_limit=8), *ruler(), *general())
        rows = benchmarks.answers(smollm2(), LONG)
        assert set(rows["run"]) == {results.run_name(smollm2(bench_limit=8), "bench")}
        assert (benchmarks.by_task(rows)["prompts"] == "8").all()

    def test_runs_of_another_model_or_suite_do_not_count(self):
        save(settings.load("llama3"), *ruler())
        save(smollm2(), *general())
        assert benchmarks.answers(smollm2(), LONG).empty

    def test_the_papers_model_is_next_to_the_longest_length(self):
        p = settings.load("llama3", "paper", target_length=131072)
        save(p, *ruler(["merged"], lengths=[1024, 2048]), *needles(["merged"], lengths=[2048]))
        table = benchmarks.by_suite(benchmarks.answers(p, LONG))
        assert table["LongRecipe, 128k (quoted)"].tolist() == ["–", "82.6", "–", "–", "76.0"]

    def test_conditions_tell_what_scores_depend_on(self):
        p = smollm2(bench_fill=True, bench_limit=8, bench_without=["ruler_cwe"])
        about = {"haystack": "english", "haystack_sha256": "0123456789abcdef", "sentences": "longrecipe"}
        about |= {"minutes": "RULER 10"}
        save(p, *ruler(), lm_eval="0.4.13", **about | {"corrections of RULER": "qa, vt"})
        rows = benchmarks.answers(p, LONG)
        found = benchmarks.conditions(p, rows).squeeze("columns")
        assert found["haystack"] == "english, 0123456789" and found["corrections of RULER"] == "qa, vt"
        assert found["prompts filled to the length"] == "yes" and found["tasks left out"] == "ruler_cwe"
        assert found["target, seed"] == "16,384, 0" and found["minutes"] == "RULER 10"
        assert found["solved examples"] == "NIAH(M) 0, RULER 0"


def test_summary_has_a_row_for_each_stage_suite_and_length():
    save(smollm2(), *ruler(), *general(["base"]))
    rows = unpadded(summary().partition("## Standard benchmarks")[2])
    start = "| smollm2 | longrecipe | 16384 | 0 |"
    assert f"{start} base | ruler | 2048 | none | 4 | 32 | 2048 | 0 | 43.8 [" in rows
    assert f"{start} merged | niah_m | 4096 | none | 3 | 24 | 4096 | 0 | 75.0 [" in rows
    assert f"{start} base | gsm8k | own | flexible-extract | 1 | 8 | 700 | 0 | 62.5 [" in rows
    assert rows.count(start) == 2 + 4 + 4 + 3


class TestGeneral:
    def test_stages_are_differences_from_the_base_next_to_the_papers(self):
        save(smollm2(), *general())
        table = benchmarks.next_to_paper(benchmarks.answers(smollm2(), GENERAL))
        names = ["MMLU", "GSM8K, strict-match", "GSM8K, flexible-extract", "HumanEval"]
        assert list(table.index) == names
        stages = ["base, %", "RoPE rule alone", "merged", "order"]
        assert list(table["measured"].columns) == stages
        assert table["measured"].loc["MMLU", "base, %"].startswith("50.0 [")
        assert table["measured"].loc["MMLU", "merged"].startswith("+25.0 [")
        assert table["measured"].loc["GSM8K, strict-match", "order"] == "merged > base > RoPE rule alone"
        assert (table["measured"].loc["HumanEval"] == "–").all()
        assert table["quoted"].loc["GSM8K, strict-match", "merged"] == "-13.5"

    def test_differences_are_paired_by_prompt(self):
        save(smollm2(), *general(["base"]), *general(["merged"]))
        cell = benchmarks.next_to_paper(benchmarks.answers(smollm2(), GENERAL))["measured"].loc["MMLU", "merged"]
        low, high = (float(end) for end in cell.partition("[")[2].strip("]").split(", "))
        # 2 of 8 prompts differ; unpaired, the interval would contain 0 by far.
        assert low >= 0 and high <= 62.5

    def test_without_results_only_the_papers_numbers_are_shown(self):
        table = benchmarks.next_to_paper(benchmarks.answers(smollm2(), GENERAL))
        assert set(table.columns.get_level_values(0)) == {"quoted"} and len(table) == 3
        assert table["quoted"].loc["HumanEval"].tolist() == [
            "37.5", "-17.4", "-30.8", "-8.2", "base > merged > extended > replayed"
        ]  # fmt: skip

    def test_method_that_the_paper_does_not_have_has_no_quoted_columns(self):
        save(smollm2(method="stratified"), *general())
        table = benchmarks.next_to_paper(benchmarks.answers(smollm2(), GENERAL))
        assert set(table.columns.get_level_values(0)) == {"measured"}


def test_differences_are_paired_by_prompt_where_both_models_were_asked():
    save(smollm2(), *ruler())
    table = benchmarks.differences(benchmarks.answers(smollm2(), LONG))
    assert list(table.columns) == ["RoPE rule alone - base", "merged - base", "merged - RoPE rule alone"]
    cells = table.loc[("NIAH(M)", "2,048")]
    # The base finds 0.5, 0.25 and 1.0 of three tasks, the rule 0.0, 0.0 and 0.5, merged 0.75, 0.5 and 1.0.
    assert [cell.split()[0] for cell in cells] == ["-41.7", "+16.7", "+58.3"]
    assert table.loc[("RULER", "4,096")].isna().tolist() == [True, True, False]


def test_methods_have_differences_of_their_own():
    save(smollm2(), *ruler())
    save(smollm2(method="pose"), *ruler(["base", "merged"]))
    table = benchmarks.differences(benchmarks.answers(smollm2(), LONG))
    assert [column for column in table.columns if "PoSE" in column] == ["PoSE, merged - base"]
    assert (table["PoSE, merged - base"].dropna() == table["LongRecipe, merged - base"].dropna()).all()


class TestGpt4:
    def test_other_models_are_listed_with_the_papers_three(self):
        table = gpt4.others()
        assert list(table.columns) == ["NIAH(M)", "RULER", "LongBench", "MMLU", "GSM8K", "HumanEval"]
        assert {"gpt-4-1106-preview", "LongRecipe, mistral-7b", "LongRecipe, qwen2-7b"} <= set(table.index)
        assert table["NIAH(M)"].is_monotonic_decreasing and len(table) == 15

    def test_claim_is_judged_benchmark_by_benchmark(self):
        claims = gpt4.close_to_gpt4()
        assert [each.verdict for each in claims] == ["holds", *["does not hold"] * 5]
        assert claims[0].found == "6.4 points above" and claims[1].found == "5.2 points below"
        assert {each.label for each in claims} == {"quoted"}


class TestCommand:
    def test_settings_that_differ_from_the_files_are_in_the_command(self):
        text = bench_command.to_measure(smollm2(seed=1, bench_lengths=[2048, 4096]), LONG)
        assert (
            "longrecipe bench --params params/small/smollm2.yaml -p profile cpu -p seed 1 -p bench_lengths "
            "'[2048, 4096]' --suites needles,ruler,longbench\n"
        ) in text
        assert "modelled" not in text and "NIAH(M), own needles, RULER, LongBench: no scores of smollm2 yet" in text

    def test_code_has_to_be_allowed(self):
        assert "--suites mmlu,gsm8k,humaneval --allow-code\n" in bench_command.to_measure(smollm2(), GENERAL)

    def test_own_params_file_is_named(self):
        p = smollm2().model_copy(update={"model": "mine"})
        assert "--params own.yaml --suites" in bench_command.to_measure(p, GENERAL)

    def test_duration_is_labelled_as_modelled(self):
        text = bench_command.to_measure(settings.load("llama3", "paper"), LONG, H100)
        assert re.search(
            r"With 20 prompts of each task, all models .* [\d.]+ hours on H100 80 GB \(modelled\)\.$", text
        )

    def test_notebooks_at_scale_mini_show_smollm2(self):
        assert benchmarks.model_of(table1.EXPERIMENT.grid("llama3")) == smollm2()
        (paper,) = (p for p in grid() if p.method == "longrecipe")
        assert benchmarks.model_of(grid()) == paper


def grid():
    return table1.EXPERIMENT.grid("llama3", seeds=[0], scale="paper", text="t", replay_text="r")


class TestDuration:
    llama = models.config_of("llama3", "paper")

    def test_a_prompt_by_hand(self):
        """8 B parameters, 131,072 tokens: 2 FLOPs a weight and token, and half of n for each token's attention."""
        blocks = cost.counts(self.llama).blocks
        read = 131072 * (2 * blocks / H100.matmul_flops + 2 * 32 * 4096 * 131072 / H100.attention_flops)
        keys = 2 * 32 * 8 * 128 * 2 * 131072
        step = max(0.02, (2 * cost.counts(self.llama).total + keys) / H100.bandwidth)
        found = duration.seconds(self.llama, H100, [(3, 131072, 128)])
        assert found == pytest.approx(3 * (read + 128 * step))

    def test_short_prompts_take_the_least_time(self):
        assert duration.seconds(self.llama, H100, [(1, 1, 2)]) == pytest.approx(0.06)

    def test_short_prompts_share_a_batch(self):
        assert harness.BATCH_TOKENS is duration.BATCH_TOKENS
        one, many = (duration.seconds(self.llama, H100, [(n, 300, 212)]) for n in (1, 32))
        assert one < many < 4 * one

    def test_numbers_of_prompts_are_those_of_the_suites(self):
        assert sum(n for n, _, _ in duration.expected_prompts(["niah_m", "ruler"], [4096, 8192], 20)) == 13 * 2 * 20
        assert duration.expected_prompts(["mmlu"], [], None)[0][0] == 14022
        assert duration.expected_prompts(["humaneval"], [], 20) == [(20, 180, 1024)]
        for suite in benchmarks.SUITES.values():
            assert len(suite.names()) == suite.n_tasks

    def test_all_models_of_a_run_count_each_at_lengths_within_its_window(self):
        p = settings.load("llama3", "paper", bench_limit=2)
        config = models.config_of("llama3", "paper")
        kind = "cuda" if torch.cuda.is_available() else "cpu"
        size = models.autocast_dtype(p.eval_precision, kind).itemsize
        one = {
            n: duration.seconds(
                config, H100, duration.expected_prompts(["niah_m"], [n], 2), kind=kind, weight_bytes=size
            )
            for n in (8192, 131072)
        }
        total = bench_command.modelled_seconds(p, ["niah_m"], H100)
        assert total == pytest.approx(5 * one[8192] + 4 * one[131072])


def test_durations_in_the_documentation_are_those_of_the_model():
    page = (PACKAGE.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [name for name, _, _ in shown] == list(benchmarks.SUITES)
    config = models.config_of("llama3", "paper")
    for name, *minutes in shown:
        for text, limit in zip(minutes, (20, None), strict=True):
            prompts = duration.expected_prompts([name], [131072], limit)
            digits = len(text.partition(".")[2])
            assert f"{duration.seconds(config, H100, prompts) / 60:.{digits}f}" == text, name


class TestNotebooks:
    """The cells of the standard benchmarks in notebooks 04 and 06."""

    def shown(self, name, shell, scale="mini"):
        notebook = nbformat.read(PACKAGE.parent / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = [c.source for c in notebook.cells if c.cell_type == "code" and c.id.startswith(("benchmarks", "gpt4"))]
        model = {"mini": "llama3", "small": "smollm2"}[scale]
        setup = f"from longrecipe.experiments import table1\ngrid = table1.EXPERIMENT.grid({model!r}, scale={scale!r})"
        shell(setup, *cells)
        return len(cells)

    @pytest.mark.parametrize(
        ("name", "column"), [("04_long_context", "niah_multikey_1"), ("06_general_tasks", "order")]
    )
    def test_scores_of_smollm2_are_shown_at_scale_mini(self, name, column, shell, capsys):
        save(smollm2(), *ruler(), *general())
        assert self.shown(name, shell) == {"04_long_context": 4, "06_general_tasks": 1}[name]
        text = capsys.readouterr().out
        assert column in text and "measured with" in text and "This command makes them" not in text

    @pytest.mark.parametrize("name", ["04_long_context", "06_general_tasks"])
    def test_command_is_shown_without_scores_and_its_duration_beyond_scale_mini(self, name, shell, capsys, monkeypatch):
        self.shown(name, shell)
        assert "This command makes them" in (text := capsys.readouterr().out) and "modelled" not in text
        monkeypatch.setattr(bench_command, "this_machine", lambda p: H100)
        config = models.config_of("llama3")
        monkeypatch.setattr(models, "config_of", lambda *_: config)
        self.shown(name, shell, "small")
        assert "on H100 80 GB (modelled)." in capsys.readouterr().out
