"""The whole recipe in few calls, on a run of seconds and on method none."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from runs import SHORT

from longrecipe import recipe, results, settings
from longrecipe.data.sentences import token_strings
from longrecipe.recipe import whole


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGRECIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield recipe.prepare(settings.load("llama3", **SHORT | {"out": str(tmp_path_factory.mktemp("out") / "made")}))


@pytest.fixture(scope="module")
def analysis(run):
    return run.analyse()


def test_one_sentence_shows_its_anchor_and_the_jumps_around_it(run, analysis):
    anchors, row = run.anchors(analysis), recipe.shown_rows(run, analysis, 3)[0]
    shown = recipe.one_sentence(run, row, anchors)
    this = shown[shown["sentence"] == "this one"]
    assert 4 <= len(this) <= 12 and "anchor" in set(this["anchor"])
    assert set(np.diff(this["position id"])) == set(np.diff(this["place in the document"])) == {1}
    assert shown["sentence"].iloc[0] == "the one before" and shown["sentence"].iloc[-1] == "the one after"
    ids = np.asarray(row["input_ids"])[shown["place in the sample"]]
    assert [repr(run.tokenizer.decode([i])) for i in ids] == list(shown["token"])
    assert list(shown["learns to predict"])[:-1] == list(shown["token"])[1:]
    batch = run.collator()([row])
    assert shown["position id"].tolist() == batch["position_ids"][0, shown["place in the sample"]].tolist()


def test_one_sentence_without_anchors_is_the_shortest(run, monkeypatch):
    read = []
    monkeypatch.setattr(whole, "token_strings", lambda tokenizer: read.append(1) or token_strings(tokenizer))
    row = {"key": 0, "long": True, "input_ids": [5, 6, 7, 8, 9], "segment_lengths": [3, 2], "segment_starts": [0, 7]}
    shown = recipe.one_sentence(run, row, [])
    assert shown["place in the document"].tolist() == [2, 7, 8] and not any(shown["anchor"])
    assert shown["place in the sample"].tolist() == [2, 3, 4] and shown["learns to predict"].tolist()[-1] == ""
    assert len(read) == 1, "a vocabulary of 49,152 tokens takes 0.07 s, a sample has 5,000 tokens"


def test_ranking_marks_the_anchors(run, analysis):
    ranking = recipe.ranking_of(run, analysis)
    assert ranking.index[ranking["anchor"] == "anchor"].tolist() == run.anchors(analysis)
    assert recipe.ranking_of(run, None).empty and run.anchors(None) == []


@pytest.mark.parametrize(("scale", "reach"), [("mini", None), ("small", 256)])
def test_a_base_above_mini_is_not_measured_beyond_its_window(scale, reach, monkeypatch):
    asked, made = [], {"base": lambda: "base", "RoPE rule alone": lambda: "rule", "merged": lambda: "merged"}
    monkeypatch.setattr(whole, "measured_models", lambda run, trained: made)
    run = SimpleNamespace(params=SimpleNamespace(scale=scale, window=256))
    run.measure = lambda network, **options: asked.append((network, options["share"], options["longest"]))
    assert list(recipe.measure_all(run, {})) == list(made)
    assert asked == [("base", 1, reach), ("rule", 0.4, None), ("merged", 1, None)]


@pytest.mark.slow
def test_all_stages_are_trained_measured_and_exported(run, analysis, warm_children):
    trained = recipe.train_all(run, analysis)
    assert list(trained) == ["extended", "replayed"]
    trained |= recipe.replay_as_in_paper(run, trained, analysis)
    assert list(results.training_table(trained).index) == ["extended", "replayed", "replayed, short text only"]
    chosen = run.varied(eval_stages=["merged", "paper's setting"])
    reports = recipe.measure_all(chosen, trained)
    assert list(reports) == ["merged", "paper's setting"]
    assert recipe.replay_as_in_paper(run.varied(eval_stages=["merged"]), trained, analysis) == {}
    read = recipe.read_held_out(run.varied(eval_longppl=2), trained)
    table, types = read.longppl(), read.chosen_types()
    assert list(table.index) == ["base", "RoPE rule alone", "extended", "replayed", "merged", "paper's setting"]
    by_position = read.by_position()
    assert list(by_position["model"].unique()) == list(table.index) and by_position["low"].isna().all()
    # 256 is the window, 512 the target.
    assert list(by_position["end"].unique()) == [64, 128, 192, 256, 384, 512]
    mean = np.average(by_position.query("model == 'merged'")["loss"], weights=[63, 64, 64, 64, 128, 128])
    assert np.exp(mean) == pytest.approx(float(table.loc["merged", "perplexity"]), abs=0.006)
    assert [claim.verdict for claim in read.claims()] == ["not measured"] * 2
    # The extended model has a loss below 2 at all tokens that it has chosen.
    assert float(table.loc["extended", "LongPPL"]) < np.exp(2)
    counts = types["chosen tokens"].astype(int)
    assert counts["all"] == counts.drop("all").sum() > 0
    only = run.varied(eval_longppl=2, eval_stages=["merged"])
    other = recipe.read_held_out(only, trained, evaluator="base").longppl()
    assert list(other.index) == ["merged"] and other.loc["merged", "perplexity"] == table.loc["merged", "perplexity"]
    with pytest.raises(
        ValueError, match=r"evaluator = 'best': this run has the models base, RoPE rule alone, extended"
    ):
        recipe.read_held_out(run, trained, evaluator="best")
    found = recipe.export_checked(run, trained, {name: report.numbers() for name, report in reports.items()})["found"]
    assert found["architecture"] == "LlamaForCausalLM" and found["window"] == "512 tokens"


@pytest.mark.slow
def test_method_none_trains_and_exports_nothing(run):
    none = run.varied(method="none")
    assert recipe.train_all(none, none.analyse()) == recipe.replay_as_in_paper(none, {}, None) == {}
    assert list(recipe.measure_all(none, {})) == ["base", "RoPE rule alone"]
    read = recipe.read_held_out(none.varied(eval_longppl=2), {})
    assert list(read.longppl().index) == ["base", "RoPE rule alone"] and len(read.chosen_types())
    assert recipe.measure_steps(none.varied(eval_steps=[0]), {}) == {}
    assert recipe.export_checked(none, {}, {})["found"].tolist() == ["none: this method trains no model"]
    rows = recipe.shown_rows(none, None, 2)
    assert len(rows) == 2 and not list(none.folder("extend").glob("data/*"))
    assert none.collator()(rows)["position_ids"].tolist() == [list(range(none.params.train_length))] * 2


def test_longppl_can_be_left_out(run):
    without = run.varied(eval_longppl=0)
    own_text = dataclasses.replace(without, text=dataclasses.replace(run.text, facts=None))
    for chosen in (without, without.varied(method="none"), own_text):
        read = recipe.read_held_out(chosen, {})
        table = read.longppl()
        assert table.empty and read.chosen_types().empty and read.by_position().empty and read.claims() == []
        assert list(table.columns)[:3] == ["LongPPL", "95 % interval", "perplexity"]


@pytest.mark.slow
def test_stage_one_is_measured_after_each_step_that_is_asked_for(run, analysis):
    plain = run.extend(run.stage_one_set(analysis))
    asked = run.varied(eval_steps="[6, 0, 2]")
    extended = asked.extend(asked.stage_one_set(analysis))
    # In a folder of its own; the training is the same.
    assert extended.losses == plain.losses and extended.folder != plain.folder
    assert extended.resumed_from is None
    kept = {path.name for path in extended.folder.parent.iterdir()}
    assert kept == {"model", "stage.json", "step-2"}
    weights = [asked.at_step(extended, step).lm_head.weight for step in (0, 2, 6)]
    assert (weights[0] == run.raised().lm_head.weight).all() and (weights[2] == plain.load().lm_head.weight).all()
    assert not any((one == other).all() for one, other in itertools.pairwise(weights))
    reports = recipe.measure_steps(asked, {"extended": extended})
    assert list(reports) == ["step 0", "step 2", "step 6"]
    assert {n for report in reports.values() for n in report.prompts["length"]} == {256, 512}
    assert len(results.stage_table({name: report.numbers() for name, report in reports.items()})) == 3
    assert recipe.measure_steps(run, {"extended": plain}) == {}
    with pytest.raises(OSError, match="step-4"):
        asked.at_step(extended, 4)
