"""The experiments on a real model: what a run measures, and their tables and claims from runs made by hand."""

import dataclasses

import numpy as np
import pytest
from runs import SHORT, made_real_run

from longrecipe import evaluate, recipe, results, settings
from longrecipe.experiments import EXPERIMENTS, factors, growth, paired, real
from longrecipe.experiments.paired import BASE, RULE, Paired
from longrecipe.experiments.scores import CONTIGUOUS

PLAIN, ANCHOR, CONTROL = "LongRecipe, 12 samples", "LongRecipe, 12 samples, anchor 9", "contiguous, 12 samples"


def compared(module, *runs):
    return Paired(tuple((module.label(run.params), run) for run in runs))


@pytest.fixture
def control():
    return made_real_run((2.1, 3.0), 0.25, 11.0, method="none")


@pytest.fixture
def plain():
    return made_real_run((2.05, 2.9), 0.5, 10.2, spread=0.01, method="longrecipe")


@pytest.fixture
def found(control, plain):
    contiguous = made_real_run((2.0, 2.7), 0.75, 10.1, spread=0.03, method=CONTIGUOUS)
    anchor = made_real_run((2.0, 2.8), 0.5, 10.4, spread=0.02, method="longrecipe", loss_weight="anchor")
    return compared(real, control, contiguous, plain, anchor)


def test_models_are_compared_on_the_same_documents(found):
    table = real.table(found)
    assert table.index.tolist() == [RULE, CONTROL, PLAIN, ANCHOR]
    assert table["minus that of RoPE rule alone"].str.split().str[0].tolist()[1:] == ["-0.300", "-0.100", "-0.200"]
    assert table["recall at T"].str.split().str[0].tolist() == ["25.0", "75.0", "50.0", "50.0"]
    assert table["of the base's"].tolist() == ["110.0%", "101.0%", "102.0%", "104.0%"]
    verdicts = {claim.text: claim.verdict for claim in real.claims(found)}
    assert verdicts == {
        f"{CONTROL}: training lowers the loss beyond 8,192 tokens": "holds",
        f"{CONTROL}: recall at T is at least that of {RULE}": "holds",
        f"{PLAIN}: training lowers the loss beyond 8,192 tokens": "holds",
        f"{PLAIN}: recall at T is at least that of {RULE}": "holds",
        f"{ANCHOR}: training lowers the loss beyond 8,192 tokens": "holds",
        f"{ANCHOR}: recall at T is at least that of {RULE}": "holds",
        f"{PLAIN}: a loss lower than that of {CONTROL} beyond 8,192 tokens": "does not hold",
        f"{PLAIN}: recall at T is at least that of {CONTROL}": "does not hold",
        f"{ANCHOR}: weights lower the loss beyond 8,192 tokens": "holds",
        f"{ANCHOR}: recall at T is at least that of {PLAIN}": "not settled",
        f"{CONTROL}: training lowers the loss more beyond 8,192 tokens than up to there": "holds",
        f"{PLAIN}: training lowers the loss more beyond 8,192 tokens than up to there": "holds",
        f"{ANCHOR}: training lowers the loss more beyond 8,192 tokens than up to there": "holds",
        f"{CONTROL}: perplexity is at most 3% above the base's": "holds",
        f"{PLAIN}: perplexity is at most 3% above the base's": "holds",
        f"{ANCHOR}: perplexity is at most 3% above the base's": "does not hold",
    }
    assert f"-0.300 {CONTROL}, -0.100 {PLAIN}, -0.200 {ANCHOR}" in real.figure(found).get_label()


def test_the_base_is_shown_and_not_judged(control, plain):
    """It is a run of method none without a raised RoPE base, which `sweep factors` makes."""
    base = made_real_run((2.0, 9.0), 0.0, 10.0, spread=0.02, method="none", rope_factor=1.0)
    known = compared(real, base, control, plain)
    table = real.table(known)
    assert table.index.tolist() == [BASE, RULE, PLAIN]
    assert table.loc[BASE, "loss beyond"].startswith("9.") and table.loc[BASE, "of the base's"] == "100.0%"
    texts = [claim.text for claim in real.claims(known)]
    assert texts == [claim.text for claim in real.claims(compared(real, control, plain))]
    drawn = [figure(known).get_label() for figure in (real.by_position_figure, real.figure)]
    assert " base" in drawn[0] and "base" not in drawn[1].replace("base window", "")
    assert real.by_position_figure(Paired(())).get_label().startswith("No ")


def test_seeds_of_one_setting_are_averaged_by_document(control, plain):
    other = made_real_run((2.0, 2.8), 0.5, 10.4, spread=0.02, method="longrecipe", seed=1)
    both = compared(real, control, plain, other)
    assert both.names == [RULE, PLAIN]
    assert real.table(both).loc[PLAIN, "minus that of RoPE rule alone"].startswith("-0.150 [")
    assert real.table(both).loc[PLAIN, "perplexity"] == "10.30"


def test_a_model_is_shown_without_the_control(plain):
    """A sweep was stopped before the run of method none had finished."""
    alone = compared(real, plain)
    assert real.table(alone).loc[PLAIN, ["minus that of RoPE rule alone", "of the base's"]].tolist() == ["", ""]
    assert not len(real.claims(alone)) and "nothing to compare" in real.figure(alone).get_label()
    growing = compared(growth, plain)
    assert not len(growth.claims(growing)) and "no growth" in growth.figure(growing).get_label()


@pytest.mark.parametrize("module", [real, growth, factors])
def test_nothing_is_compared_without_runs(module):
    nothing = Paired(())
    assert not nothing and not len(module.claims(nothing))
    assert module.table(nothing).empty
    assert module.figure(nothing).get_label().startswith("No ")


@pytest.mark.parametrize("name", ["real", "growth", "factors"])
def test_a_grid_has_one_seed_and_its_own_scale_and_text(name):
    grid = EXPERIMENTS[name].grid()
    assert {(p.model, p.scale, p.text, p.seed, p.target_length) for p in grid} == {
        ("smollm2", "small", "long-text", 0, 16384)
    }
    other = EXPERIMENTS[name].grid(seeds=[3], text="mine", profile=None, target_length=32768)
    assert {(p.text, p.seed, p.target_length) for p in other} == {("mine", 3, 32768)}


def test_grids_share_their_runs():
    """What one sweep has run is finished for the others."""
    runs = {name: set(EXPERIMENTS[name].grid()) for name in ("real", "growth", "factors")}
    assert len(runs["real"] & runs["growth"]) == 2 and len(runs["real"] & runs["factors"]) == 1


def test_runs_on_other_text_are_not_mixed(control, plain, monkeypatch):
    mine = made_real_run((1.0, 1.0), 1.0, 9.0, method="longrecipe", text="mine")
    known = {run.name: run for run in (control, plain, mine)}
    monkeypatch.setattr(results, "find", lambda p, store: known.get(results.run_name(p, store)))
    assert [run for _, run in real.compared().runs] == [control, plain]
    own = real.compared(text="mine")
    assert [run for _, run in own.runs] == [mine] and own.missing == (BASE, RULE, CONTROL, ANCHOR)
    assert set(real.table(own).loc[ANCHOR]) == {paired.NOT_MEASURED}


def test_growth_is_the_slope_of_the_loss_over_doublings(control):
    """12, 48 and 192 samples: each doubling lowers the loss beyond the window by 0.05."""
    losses = {6: 2.9, 24: 2.8, 96: 2.7}
    runs = [
        made_real_run((2.05, loss), 0.5, 10.2, spread=2e-4 * steps, needed=0.5, method="longrecipe", extend_steps=steps)
        for steps, loss in losses.items()
    ]
    found = dataclasses.replace(compared(growth, control, *runs), missing=("600 samples",))
    mean, low, high = growth.slope(found)
    assert mean == pytest.approx(-0.05) and low < mean < high
    assert np.isnan(growth.slope(compared(growth, control, runs[0]))).all()
    table = growth.table(found)
    assert table.index.tolist() == [RULE, "12 samples", "48 samples", "192 samples", "600 samples"]
    apart = table["minus that of RoPE rule alone"].str.split().str[0]
    assert apart.tolist()[1:] == ["-0.100", "-0.200", "-0.300", "not"]
    assert table["LongPPL"].tolist() == ["not measured", *[f"{np.exp(0.5):.2f}"] * 3, "not measured"]
    assert table["tokens"].tolist() == ["0", "58,980", "235,920", "943,680", "2,949,000"]
    verdicts = {claim.text: claim.verdict for claim in growth.claims(found)}
    assert verdicts == {
        "more samples lower the loss beyond 8,192 tokens": "holds",
        "192 samples: training lowers the loss beyond 8,192 tokens": "holds",
        "192 samples: training lowers the loss more beyond 8,192 tokens than up to there": "holds",
        f"192 samples: recall at T is at least that of {RULE}": "holds",
        "192 samples: perplexity is at most 3% above the base's": "holds",
    }
    assert "after 192 samples: -0.300 nats from the RoPE rule alone; -0.050 with" in growth.figure(found).get_label()


def test_the_factor_of_the_params_file_is_compared_with_the_others():
    runs = [
        made_real_run((2.0, loss), recall, 10.5, spread=spread, method="none", rope_factor=factor)
        for factor, loss, recall, spread in ((1.0, 9.0, 0.1, 0.01), (2.0, 2.9, 0.6, 0.02), (4.0, 3.0, 0.5, 0.03))
    ]
    found = compared(factors, *runs)
    assert factors.chosen() == "f = 4" and found.names == ["f = 1", "f = 2", "f = 4"]
    assert factors.table(found)["minus that of f = 4"].str.split().str[0].tolist()[:2] == ["6.000", "-0.100"]
    verdicts = [claim.verdict for claim in factors.claims(found)]
    assert verdicts == ["holds", "holds", "does not hold", "does not hold"]
    assert "9.09 f = 1, 2.99 f = 2, 3.09 f = 4" in factors.figure(found).get_label()


def test_training_has_to_bring_more_than_another_factor(control, plain):
    """The model was trained with f = 4; the RoPE rule with f = 2 reads better than it does, without training."""
    other = made_real_run((2.0, 2.8), 0.6, 10.5, spread=0.02, method="none", rope_factor=2.0)
    untrained, methods = compared(factors, other, control), compared(real, control, plain)
    claims = factors.claims(untrained, methods)
    assert factors.lowest(untrained) == "f = 2" and list(claims[:-1]) == list(factors.claims(untrained))
    text = f"{PLAIN}: a loss lower than that of f = 2, untrained, beyond 8,192 tokens"
    assert (claims[-1].text, claims[-1].verdict) == (text, "does not hold")
    assert claims[-1].found == "0.100 nats from f = 2"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "stages"),
    [("real", "none", [BASE, RULE]), ("factors", "none", [RULE]), ("real", "longrecipe", ["merged"])],
)
def test_a_run_measures_losses_by_document_and_recall(name, method, stages):
    p = settings.load("llama3", **SHORT | {"method": method, "eval_longppl": 2})
    found = EXPERIMENTS[name].protocol.measure(recipe.prepare(p))
    assert found.full == (name == "real")
    results.save(p, paired.REAL, found.tables, seconds=1.0, full=found.full, anchors=found.anchors)
    run = results.load(p, paired.REAL)
    losses = run.table("losses")
    assert list(losses["stage"].unique()) == stages[-1:] and list(run.table("documents")["stage"].unique()) == stages
    assert set(losses["tokens"]) == {evaluate.ALL} | ({evaluate.LONG_CONTEXT} if found.full else set()) and set(
        losses["document"]
    ) == {0, 1}
    counts = losses[losses["tokens"] == evaluate.ALL].groupby("document")["count"].sum()
    assert counts.eq(p.target_length - 1).all()
    scores = run.table("scores").query("task == 'multi-key'").set_index(["stage", "length"])["mean"]
    means = run.table("documents").query("task == 'multi-key'").groupby(["stage", "length"])["mean"].mean()
    assert means.to_dict() == pytest.approx(scores.to_dict())


@pytest.mark.slow
def test_key_tokens_are_those_of_the_rule_and_chosen_once(monkeypatch):
    p = settings.load("llama3", **SHORT | {"method": "none", "eval_longppl": 2})
    run = recipe.prepare(p)
    chosen = recipe.key_tokens(run)
    again = recipe.read_held_out(run, {}, evaluator=RULE)
    assert chosen.any() and np.array_equal(chosen, again.chosen)
    monkeypatch.setattr(recipe.Recipe, "raised", lambda self: pytest.fail("the cache was not used"))
    assert np.array_equal(recipe.key_tokens(recipe.prepare(settings.changed(p, method="longrecipe", seed=0))), chosen)
    short = recipe.prepare(settings.changed(p, eval_longppl=0))
    assert recipe.key_tokens(short) is None
