"""Standard benchmarks without a network: mini models, and datasets of five rows in the hub's layout."""

import importlib.util
import os
import random
import re
import shutil
import sys
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pandas as pd
import pytest
import requests
from bench_data import write_data

from longrecipe import bench, cli, models, results, stats
from longrecipe.bench import SUITES, harness, needles, ruler
from longrecipe.bench.haystack import Haystack, read_haystack
from longrecipe.bench.hub import HubData
from longrecipe.bench.validation import validate
from longrecipe.data import english
from longrecipe.recipe import benchmarks
from longrecipe.settings import ParamsError
from longrecipe.settings.bench import Bench

ALL = ("needles", "ruler", "longbench", "mmlu", "gsm8k", "humaneval")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_network(monkeypatch):
    def get(*_, **__):
        raise requests.ConnectionError("no network")

    # It loads the metric of humaneval once.
    monkeypatch.delitem(sys.modules, "lm_eval.tasks.humaneval.utils", raising=False)
    monkeypatch.setattr(requests, "get", get)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    load = evaluate.load
    monkeypatch.setattr(evaluate, "load", lambda name, *_, **__: load(name) if Path(name).exists() else get())


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer("llama3")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A mini model with a window of 2,048 tokens."""
    here = tmp_path_factory.mktemp("models") / "raised"
    models.load("llama3", target_length=2048).save_pretrained(here)
    tokenizer.save_pretrained(here)
    return here


def subject(name="raised", window=2048):
    return bench.Subject(name, f"{name}-1", window, lambda: models.load("llama3", target_length=2048))


def options(data, *suites, **changes):
    given = {"bench_suites": suites, "bench_data": str(data), "bench_limit": 2, "bench_fill": True}
    return Bench(**given | {"bench_allow_code": True} | changes)


ESSAYS = Haystack("essays", " ".join(f"This is sentence {i} of the text." for i in range(3000)))


class TestRulerPrompts:
    def rows(self, tokenizer, task, length=1024, **changes):
        given = {"count": 2, "haystack": ESSAYS, "fill": True}
        return ruler.ruler_rows(task, length, tokenizer, **given | changes)

    def test_first_prompts_do_not_depend_on_the_count_or_on_other_tasks(self, tokenizer):
        alone = self.rows(tokenizer, "ruler_cwe")
        self.rows(tokenizer, "niah_multikey_2")
        assert self.rows(tokenizer, "ruler_cwe", count=4)[:2] == alone
        assert self.rows(tokenizer, "ruler_cwe", seed=1)[0] != alone[0]

    def test_global_generators_keep_their_state(self, tokenizer):
        before, numpy_before = random.getstate(), np.random.get_state()[1].copy()
        self.rows(tokenizer, "ruler_vt")
        assert random.getstate() == before and (np.random.get_state()[1] == numpy_before).all()

    @pytest.mark.parametrize("task", [name for name in ruler.RULER if "qa" not in name])
    def test_filled_prompts_have_nearly_the_length_and_never_more(self, tokenizer, task):
        least = 0.8 if task in ("ruler_fwe", "ruler_cwe", "niah_multikey_3") else 0.93
        for row in self.rows(tokenizer, task):
            tokens = len(tokenizer(f"{row['input']} {row['gen_prefix']}")["input_ids"])
            assert least * 1024 < tokens + ruler.RULER[task].generated <= 1024

    def test_solved_example_comes_first_in_common_words(self, tokenizer):
        row = self.rows(tokenizer, "ruler_cwe")[0]
        assert row["input"].startswith(row["input_example"] + "\nBelow is a numbered list")
        assert row["input"].count("Question: What are the 10 most common words") == 2

    def test_variable_tracking_is_spelled_right(self, tokenizer):
        row = self.rows(tokenizer, "ruler_vt")[0]
        assert "assgined" not in row["input"] + row["gen_prefix"] and "are assigned the value" in row["gen_prefix"]

    def test_needles_are_in_the_text(self, tokenizer):
        (row, _) = self.rows(tokenizer, "niah_multivalue")
        assert len(row["outputs"]) == 4 and all(value in row["input"] for value in row["outputs"])

    @pytest.mark.parametrize("task", ["ruler_vt", "ruler_cwe", "niah_multikey_3", "niah_single_2"])
    def test_too_short_a_length_is_refused(self, tokenizer, task):
        with pytest.raises(ValueError, match=rf"a length of 200 tokens is too short for {task}"):
            self.rows(tokenizer, task, 200, fill=False)


class TestOwnNeedles:
    def rows(self, tokenizer, task, length=1024, **changes):
        return needles.needle_rows(task, length, tokenizer, **{"count": 2, "haystack": ESSAYS} | changes)

    def test_first_prompts_do_not_depend_on_the_count(self, tokenizer):
        assert self.rows(tokenizer, "multi-key", count=3)[:2] == self.rows(tokenizer, "multi-key")
        assert self.rows(tokenizer, "multi-key", seed=1)[0] != self.rows(tokenizer, "multi-key")[0]

    @pytest.mark.parametrize(("task", "answers"), [("multi-key", 1), ("multi-value", 4), ("multi-query", 4)])
    def test_facts_are_in_the_text_and_asked_for_at_its_end(self, tokenizer, task, answers):
        for row in self.rows(tokenizer, task):
            assert len(row["outputs"]) == answers and all(f" is: {value}." in row["input"] for value in row["outputs"])
            *_, question = row["input"].splitlines()
            name = re.fullmatch(r"What (?:is|are all) the secret numbers? for (.+) in the text above\?", question)[1]
            verb = "numbers for {} in the text above are" if answers > 1 else "number for {} in the text above is"
            assert row["gen_prefix"] == f"The secret {verb.format(name)}"
            tokens = len(tokenizer(f"{row['input']} {row['gen_prefix']}")["input_ids"])
            assert 0.9 * 1024 < tokens + row["generated"] <= 1024

    def test_answers_are_whole_words(self):
        row = {"outputs": ["1234567", "7654321"]}
        assert needles.score(row, ["1234567 and 17654321"]) == {"score": 0.5}

    def test_too_short_a_length_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="a length of 300 tokens is too short for multi-value: give a longer one"):
            self.rows(tokenizer, "multi-value", 300)

    def test_facts_are_hidden_in_the_beginning_of_the_haystack(self, tokenizer):
        long = Haystack("essays", f"{ESSAYS.text} The end.")
        assert self.rows(tokenizer, "multi-key", haystack=long) == self.rows(tokenizer, "multi-key")
        text = self.rows(tokenizer, "multi-key")[0]["input"].split("\n")[1]
        parts = re.split(r" One of the secret numbers for [^:]+: \d+\.", text)
        beginning = " ".join(ESSAYS.words[:1024])
        assert len(parts) == 9 and all(part.strip() in f"{beginning} {beginning}" for part in parts)


def test_english_haystack_begins_with_text_that_real_models_are_not_trained_on(tokenizer):
    text = read_haystack("english", HubData()).text
    held_out = english.load_english(tokenizer, english.NATURAL_HELD_OUT_EVERY, planted=False).held_out
    assert text.startswith(" ".join(tokenizer.decode(held_out).split())) and len(held_out) > 20_000


@pytest.mark.parametrize(
    ("answer", "every", "some"),
    [("in Normandy.", 1 / 3, 1.0), ("NORMANDY, France", 2 / 3, 1.0), ("Paris", 0.0, 0.0), ("\x00France\n", 1 / 3, 1.0)],
)
def test_questions_need_one_reference_and_other_tasks_all(answer, every, some):
    row = {"outputs": ["Normandy", "the Normandy region", "France"]}
    assert ruler.score(row, [answer])["score"] == pytest.approx(every)
    assert ruler.score_any(row, [answer])["score"] == some


@pytest.mark.slow
def test_all_suites_run_without_a_network(data, tokenizer):
    plan = bench.prepare([subject()], tokenizer, options(data, *ALL, "niah_m", bench_limit=1), lengths=[1024], seed=3)
    found = {each.suite: each for each in bench.run(plan)}
    assert list(found) == list(ALL)
    counts = {name: each.rows["task"].nunique() for name, each in found.items()}
    assert counts == {"needles": 3, "ruler": 13, "longbench": 21, "mmlu": 57, "gsm8k": 1, "humaneval": 1}
    for each in found.values():
        assert (each.rows.groupby(["task", "filter"])["prompt"].count() == 1).all()
        assert each.rows["score"].between(0, 1).all() and not each.rows["cut"].any()
    assert set(found["gsm8k"].rows["filter"]) == {"strict-match", "flexible-extract"}
    about = found["ruler"].about
    assert about["seed"] == 3 and set(about["corrections"]) == {"qa", "cwe", "vt"} and about["shots"] == 0
    assert about["haystack"] == "baber/paul_graham_essays" and len(about["haystack_sha256"]) == 64
    assert found["mmlu"].about["shots"] == 5 and about["versions"]["lm_eval"].startswith("0.4.")
    scores = bench.by_suite(found["ruler"].rows)
    assert list(scores["suite"]) == ["niah_m", "ruler"] and (scores["length"] == 1024).all()
    assert (plan.counted()["finished"] == 1).all()
    for prompts in plan.prompts[:2]:
        assert (prompts.table["tokens"] + prompts.table["generated"] <= 1024).all()


# Their answers have to be classes that the stand-in for the dataset does not have.
_CLASSES = ["longbench_trec", "longbench_lsht"]


@pytest.mark.slow
def test_right_answers_score_100_and_wrong_ones_0(data, tokenizer, monkeypatch):
    plan = bench.prepare([subject()], tokenizer, options(data, *ALL), lengths=[1024])
    for is_right, score in ((True, 100), (False, 0)):

        def said(request, is_right=is_right):
            row = request.doc
            references = row.get("outputs") or row.get("answers") or [row.get("answer", "    return x\n")]
            return "; ".join(references) if is_right else "~"

        def generate(self, requests, disable_tqdm=True, said=said):
            return [said(request) for request in requests]

        def rate(self, requests, disable_tqdm=True, is_right=is_right):
            return [(0.0 if (each.idx == each.doc["answer"]) == is_right else -1.0, True) for each in requests]

        monkeypatch.setattr(harness.Model, "generate_until", generate)
        monkeypatch.setattr(harness.Model, "loglikelihood", rate)
        for found in bench.run(plan, force=True):
            scores = bench.by_task(found.rows)
            means = scores.loc[~scores["task"].isin(_CLASSES), "mean"]
            assert means.tolist() == pytest.approx([score] * len(means)), found.suite


FEW = {"bench_suites": ("mmlu",), "bench_without": tuple(n for n in SUITES["mmlu"].names() if n != "mmlu_virology")}


@pytest.mark.slow
class TestRuns:
    def plan(self, data, tokenizer, *subjects, **changes):
        given = options(data, **FEW | {"bench_suites": ["mmlu", "niah_m"]} | changes)
        return bench.prepare(subjects or [subject()], tokenizer, given, lengths=[1024])

    def test_finished_suites_are_not_asked_again(self, data, tokenizer):
        plan = self.plan(data, tokenizer)
        first = bench.run(plan)

        def load():
            raise AssertionError("loaded again")

        again = self.plan(data, tokenizer, bench.Subject("raised", "raised-1", 2048, load))
        assert not again.left()
        for one, other in zip(first, bench.run(again), strict=True):
            pd.testing.assert_frame_equal(one.rows, other.rows)

    def test_other_prompts_are_asked_again_and_models_have_results_of_their_own(self, data, tokenizer):
        plan, other = self.plan(data, tokenizer), self.plan(data, tokenizer, bench_limit=3)
        paths = {str(each.path(*pair)) for each in (plan, other) for pair in each.pairs}
        paths |= {str(plan.path(subject(name="base"), prompts)) for prompts in plan.prompts}
        assert len(paths) == 6

    def test_an_interrupted_suite_resumes(self, data, tokenizer, monkeypatch):
        plan = self.plan(data, tokenizer, bench_suites=["niah_m"], bench_without=None)
        (pair,) = plan.left()
        asked = []

        def count(self, context, *given, _original=harness.Model._model_generate, **named):
            if len(asked) == 2:
                raise KeyboardInterrupt
            asked.append(context.shape)
            return _original(self, context, *given, **named)

        monkeypatch.setattr(harness, "BATCH_TOKENS", {"cpu": 1, "cuda": 1})
        monkeypatch.setattr(harness.Model, "_model_generate", count)
        with pytest.raises(KeyboardInterrupt):
            bench.run(plan)
        assert not plan.path(*pair).is_file()
        del asked[:]
        with pytest.raises(KeyboardInterrupt):
            bench.run(plan)
        del asked[:]
        (found,) = bench.run(plan)
        # Six prompts: two each time.
        assert len(asked) == 2 and len(found.rows) == 6
        assert [path.name for path in plan.path(*pair).parent.iterdir() if path.is_dir()] == []
        assert found.about["seconds"] > 0

    def test_models_are_only_asked_prompts_within_their_window(self, data, tokenizer):
        short = subject(name="base", window=1024)
        plan = self.plan(
            data, tokenizer, subject(), short, bench_suites=["niah_m"], bench_without=None, bench_lengths=[1024, 1536]
        )
        rows = {each.subject: each.rows for each in bench.run(plan)}
        assert set(rows["raised"]["length"]) == {1024, 1536} and set(rows["base"]["length"]) == {1024}
        assert plan.counted()["models"].tolist() == [2, 1]

    def test_scores_equal_those_of_the_harness_alone_but_for_the_corrections(self, data, tokenizer):
        names = ["niah_single_1", "niah_multivalue", "ruler_vt", "ruler_cwe", "ruler_qa_squad", "gsm8k"]
        without = [name for name in ruler.RULER if name not in names]
        given = options(data, "ruler", "gsm8k", bench_without=without, bench_limit=1)
        found = validate(bench.prepare([subject()], tokenizer, given, lengths=[1024])).set_index("task")
        assert list(found.index) == names and (found["prompts"] == [1, 1, 1, 1, 1, 2]).all()
        assert (found.drop("ruler_qa_squad")["differ"] == 0).all()
        assert "any of the references" in found.loc["ruler_qa_squad", "correction"]


class TestBadInput:
    def refused(self, data, tokenizer, *suites, subjects=None, **changes):
        def load():
            raise AssertionError("the weights were loaded")

        own = subjects or [bench.Subject("base", "base-1", 2048, load)]
        bench.prepare(own, tokenizer, options(data, *suites, **changes), lengths=[1024])

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"bench_suites": ["rouler"]},
                r"bench_suites.*'niah_m', 'needles', 'ruler', 'longbench', 'mmlu', 'gsm8k' or 'humaneval'",
            ),
            ({"bench_suites": ["humaneval"]}, r"set bench_allow_code to true \(--allow-code\)"),
            ({"bench_lengths": [128]}, r"bench_lengths = \[128\]: 128 is too short, at least 512"),
            ({"bench_limit": 0}, r"bench_limit.*greater than or equal to 1"),
        ],
    )
    def test_settings_that_cannot_be(self, changes, message):
        with pytest.raises(ParamsError, match=message):
            benchmarks.plan_of_folders(["llama3"], changes)

    def test_a_missing_package_names_the_extra(self, data, tokenizer, monkeypatch):
        original = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jieba" else original(name))
        with pytest.raises(ImportError, match=r"longbench needs jieba.*pip install 'longrecipe\[eval\]'"):
            self.refused(data, tokenizer, "longbench")

    def test_a_missing_subject_names_its_folder(self, data, tokenizer, tmp_path):
        shutil.copytree(data / "cais", tmp_path / "cais")
        card = (tmp_path / "cais" / "mmlu" / "README.md").read_text(encoding="utf-8")
        assert "config_name: virology" in card
        (tmp_path / "cais" / "mmlu" / "README.md").write_text(card.replace("virology", "other"), encoding="utf-8")
        with pytest.raises(
            FileNotFoundError, match=r"cais/mmlu with a configuration 'virology': .*cais.mmlu cannot be"
        ):
            self.refused(tmp_path, tokenizer, "mmlu", **FEW | {"bench_suites": ["mmlu"]})

    @pytest.mark.parametrize(
        ("suite", "missing", "place"),
        [
            ("gsm8k", "openai/gsm8k", "openai/gsm8k is missing"),
            ("niah_m", "baber/paul_graham_essays", "baber/paul_graham_essays is missing"),
            ("ruler", "ruler/dev-v2.0.json", "ruler/dev-v2.0.json is missing"),
            ("humaneval", "code_eval/code_eval.py", "code_eval/code_eval.py is missing"),
        ],
    )
    def test_missing_data_name_their_place(self, data, tokenizer, tmp_path, no_network, suite, missing, place):
        folder = tmp_path / "data"
        shutil.copytree(data, folder)
        path = folder / missing
        shutil.rmtree(path) if path.is_dir() else shutil.rmtree(path.parent) if suite == "humaneval" else path.unlink()
        with pytest.raises(FileNotFoundError, match=place) as error:
            self.refused(folder, tokenizer, suite)
        assert str(folder) in str(error.value) and "bench_data (--data)" in str(error.value)

    def test_essays_are_only_needed_by_tasks_that_hide_needles_in_them(self, data, tokenizer, tmp_path, no_network):
        (tmp_path / "data").mkdir()
        without = [name for name in ruler.RULER if name != "ruler_fwe"]
        given = options(tmp_path / "data", "ruler", bench_without=without)
        (prompts,) = bench.prepare([subject()], tokenizer, given, lengths=[1024]).prompts
        assert list(prompts.tasks) == ["ruler_fwe"] and "haystack" not in prompts.about

    def test_code_is_not_allowed_by_other_suites(self, data, tokenizer, monkeypatch):
        monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
        bench.prepare([subject()], tokenizer, options(data, "gsm8k"), lengths=[1024])
        assert "HF_ALLOW_CODE_EVAL" not in os.environ
        monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
        bench.prepare([subject()], tokenizer, options(data, "humaneval"), lengths=[1024])
        assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"

    def test_a_folder_that_is_not_there(self, tokenizer):
        with pytest.raises(NotADirectoryError, match="bench_data = 'nowhere'"):
            self.refused("nowhere", tokenizer, "gsm8k")

    def test_a_length_above_every_window(self, data, tokenizer):
        with pytest.raises(ValueError, match="4096 is above the window of base"):
            self.refused(data, tokenizer, "ruler", bench_lengths=[1024, 4096])

    def test_a_haystack_that_is_too_short(self, data, tokenizer, tmp_path):
        text = tmp_path / "short.txt"
        text.write_text("A few words only.", encoding="utf-8")
        with pytest.raises(ValueError, match=r"the haystack 'short.txt' has \d+ tokens, fewer than the longest"):
            self.refused(data, tokenizer, "niah_m", bench_haystack=str(text))

    def test_a_chat_template_that_is_not_there(self, data, tokenizer):
        with pytest.raises(ValueError, match="bench_chat_template = True: the tokenizer has no chat template"):
            self.refused(data, tokenizer, "gsm8k", bench_chat_template=True)

    @pytest.mark.parametrize(
        ("without", "message"), [(["gms8k"], "'gms8k' is no task of gsm8k"), (["gsm8k"], "leaves no task of gsm8k")]
    )
    def test_tasks_to_leave_out(self, data, tokenizer, without, message):
        with pytest.raises(ValueError, match=message):
            self.refused(data, tokenizer, "gsm8k", bench_without=without)

    def test_models_with_different_tokenizers(self, data, folder, tmp_path):
        other = models.load_tokenizer("llama3")
        other.add_tokens(["<own>"])
        shutil.copytree(folder, tmp_path / "other")
        other.save_pretrained(tmp_path / "other")
        given = {"bench_suites": ["gsm8k"], "bench_data": str(data)}
        with pytest.raises(ValueError, match=r"other has another tokenizer than .*raised"):
            benchmarks.plan_of_folders([str(folder), str(tmp_path / "other")], given)

    def test_models_in_folders_of_one_name_have_different_names(self, data, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "raised")
        given = {"bench_suites": ["gsm8k"], "bench_data": str(data)}
        plan = benchmarks.plan_of_folders([str(folder), str(tmp_path / "raised")], given)
        assert [each.name for each in plan.subjects] == [str(folder), str(tmp_path / "raised")]

    def test_prompts_much_shorter_than_asked_are_refused_without_filling(self, data, tokenizer):
        with pytest.raises(ValueError, match=r"makes a prompt of only \d+ tokens.*bench_fill to true"):
            self.refused(data, tokenizer, "niah_m", bench_fill=False)


class TestScores:
    def rows(self, scores, suite="ruler", tasks=("ruler_vt", "ruler_cwe")):
        table = pd.DataFrame([(t, i, s) for t, own in zip(tasks, scores, strict=True) for i, s in enumerate(own)])
        table.columns = ["task", "prompt", "score"]
        return table.assign(suite=suite, length=1024, filter="none", tokens=1000, cut=False)

    def test_a_suite_is_the_mean_of_its_tasks_whatever_their_numbers_of_prompts(self):
        (row,) = bench.by_suite(self.rows([[1, 1, 1, 1], [0, 0]])).to_dict("records")
        assert row["mean"] == 50 and row["prompts"] == 6 and row["tokens"] == 1000 and row["cut"] == 0

    def test_mmlu_is_the_mean_of_its_questions(self):
        (row,) = bench.by_suite(self.rows([[1, 1, 1, 1], [0, 0]], "mmlu")).to_dict("records")
        assert row["mean"] == pytest.approx(400 / 6)
        assert (row["low"], row["high"]) == pytest.approx([100 * x for x in stats.wilson(4, 6)[1:]])

    def test_a_task_has_the_interval_of_wilson(self):
        rows = bench.by_task(self.rows([[1, 0, 1, 1], [0.5, 0.25, 0.25]]))
        assert (rows.loc[0, "low"], rows.loc[0, "high"]) == pytest.approx([100 * x for x in stats.wilson(3, 4)[1:]])
        assert 25 <= rows.loc[1, "low"] <= rows.loc[1, "mean"] <= rows.loc[1, "high"] <= 50

    def test_differences_are_paired_by_prompt(self):
        base = self.rows([[0, 1, 0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0, 1, 1]])
        better = base.assign(score=base["score"] * 0 + 1)
        (row,) = bench.differences(better, base).to_dict("records")
        assert row["mean"] == 50 and 0 < row["low"] < 50 < row["high"] <= 100

    def test_equal_differences_are_not_certain(self):
        base = self.rows([[0, 1] * 5], tasks=["ruler_vt"])
        (row,) = bench.differences(base, base).to_dict("records")
        # Wilson's interval of 0 of 10.
        assert (row["mean"], row["low"], row["high"]) == pytest.approx((0, -27.75, 27.75), abs=0.01)

    def test_differences_need_the_same_prompts(self):
        base = self.rows([[0, 1], [0, 0]])
        with pytest.raises(ValueError, match="2 prompts of the base were not asked"):
            bench.differences(base.iloc[:2], base)


class TestCommand:
    def test_counts_prompts_without_loading_a_model(self, data, folder, capsys, monkeypatch):
        monkeypatch.setattr(models, "load", lambda *_, **__: pytest.fail("a model was loaded"))
        for limit, count in (("3", "3"), ("null", "5")):
            given = ["--suites", "gsm8k", "--limit", limit, "--data", str(data), "--check"]
            cli.main(["bench", str(folder), *given])
            header, row = capsys.readouterr().out.strip().splitlines()
            assert header.split()[:4] == ["suite", "length", "tasks", "prompts"]
            assert row.split()[:4] == ["gsm8k", "0", "1", count]

    @pytest.mark.slow
    def test_scores_the_models_of_a_run(self, data, tmp_path, capsys, monkeypatch):
        given = ["--suites", "niah_m", "--limit", "1", "--data", str(data), "--lengths", "1024", "--fill"]
        small = ["-p", "method", "none", "-p", "target_length", "1024"]
        file = tmp_path / "run.yaml"
        file.write_text("model: llama3\nscale: mini\n", encoding="utf-8")
        cli.main(["bench", "--params", str(file), *small, *given])
        assert "RoPE rule alone" in capsys.readouterr().out
        (run,) = results.finished("bench", model="llama3")
        rows = run.table("benchmarks")
        assert set(rows["stage"]) == {"RoPE rule alone"} and (rows["length"] == 1024).all() and len(rows) == 3
        assert re.fullmatch(r"NIAH\(M\) \d+", run.packages["minutes"])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ([], "give either model folders, or the settings of a run"),
            (["llama3", "-p", "seed", "1"], "-p changes the settings of a run"),
            (["--params", "llama3", "--seed", "1"], "--seed and --precision are for model folders"),
        ],
    )
    def test_arguments_that_do_not_fit(self, capsys, given, message):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["bench", *given])
        assert message in capsys.readouterr().err
