"""Loss weights: each scheme against its definition, and the weights that a run stores with its samples."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe import settings, tokens
from longrecipe.data.weights import SCHEMES, anchor_weights, helm_weights, longce_weights, shift_weights
from longrecipe.recipe import context_scores, prepare, weights_by_type
from longrecipe.settings import ParamsError

LONG = np.array([1.0, 2.0, 0.5, 3.0])
SHORT = np.array([1.0, 1.0, 3.5, 3.0])


# the schemes, by hand


def test_anchors_count_one_plus_c_times_as_much_as_other_tokens():
    assert anchor_weights(np.array([True, False, False, False]), 4).tolist() == [2.5, 0.5, 0.5, 0.5]
    for none in (np.zeros(3, dtype=bool), np.ones(3, dtype=bool)):
        assert anchor_weights(none, 9).tolist() == [1, 1, 1]


def test_shift_adds_what_the_score_rises_up_to_the_strength():
    assert shift_weights(np.array([-2.0, 0.0, 1.0, 5.0]), 3).tolist() == [0.5, 0.5, 1.0, 2.0]
    assert shift_weights(np.array([-2.0, -7.0]), 3).tolist() == [1, 1]


def test_longce_is_the_gain_in_probability_up_to_gamma():
    long, short = np.array([1.0, 1.0, 1.0, 1.0]), np.array([9.0, 1.0, 1 + math.log(2), 4.0])
    # The first token is among the first K = 2, so it has no shorter context.
    np.testing.assert_allclose(longce_weights(long, short, 5, context=2), [1, 1, 2, 5])
    # A token that long context makes less likely has a weight below 1.
    np.testing.assert_allclose(longce_weights(short, long, 5, context=1), [math.exp(-8), 1, 0.5, math.exp(-3)])


def test_helm_mixes_equal_weights_with_the_share_of_the_difference():
    # The differences are 0, 1, 3 and 0, their mean is 1.
    np.testing.assert_allclose(helm_weights(LONG, SHORT, 0.5), [0.5, 1.0, 2.0, 0.5])
    np.testing.assert_allclose(helm_weights(LONG, SHORT, 0.75), [0.75, 1.0, 1.5, 0.75])
    assert helm_weights(LONG, LONG, 0.75).tolist() == [1, 1, 1, 1]
    # The mean of these differences is 0 in float64, too.
    assert helm_weights(np.array([0.0, 5e-324]), np.zeros(2), 0.0).tolist() == [1, 1]


@given(st.lists(st.floats(-20, 20), min_size=2, max_size=30), st.floats(0, 1), st.floats(0, 50))
def test_weights_are_not_negative_and_keep_the_size_of_the_loss(values, share, strength):
    values = np.array([values, values[::-1]])
    for found in (
        anchor_weights(values > 0, strength),
        shift_weights(values, strength),
        helm_weights(values, np.zeros_like(values), share),
    ):
        assert (found >= 0).all()
        np.testing.assert_allclose(found.mean(axis=-1), 1, rtol=1e-5)


# settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss_weight": "number"}, "loss_weight = 'number': "),
        ({"loss_weight_strength": 9}, "loss_weight_strength = 9: there are no weights; set loss_weight to anchor, "),
        ({"loss_weight": "anchor", "loss_weight_strength": -1}, "strength = -1: for anchor it is c, 0 to 10000"),
        ({"loss_weight": "longce", "loss_weight_strength": 0.5}, "for longce it is the largest weight, 1 to 10000"),
        ({"loss_weight": "helm", "loss_weight_strength": 1.5}, "for helm it is lambda, share of equal weights, 0 to 1"),
        ({"loss_weight": "helm", "loss_context": 0}, "loss_context = 0: "),
        ({"loss_context": 64}, "loss_context = 64: only loss_weight longce and helm, and document_candidates above 1"),
        (
            {"loss_weight": "helm", "loss_context": 1000},
            "loss_context = 1000: at most 614, half of a sample and of what",
        ),
        ({"document_candidates": 101}, "document_candidates = 101: "),
        ({"scale": "paper", "distractors": 1}, "distractors = 1, .* facts are planted at scale mini only"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ParamsError, match=message):
        settings.load("llama3", **given)


def test_runs_without_weights_keep_their_names():
    plain = settings.load("llama3")
    assert settings.load("llama3", loss_weight="none", loss_context=None).key == plain.key
    keys = {settings.load("llama3", loss_weight=name).key for name in SCHEMES}
    assert len(keys | {plain.key, settings.load("llama3", loss_weight="anchor", loss_weight_strength=3).key}) == 6
    # The analysis does not read them.
    assert settings.load("llama3", loss_weight="anchor").stage_key("analysis") == plain.stage_key("analysis")


# the stored samples

TINY = {"n_documents": 4, "extend_steps": 2, "extend_batch_size": 2, "target_length": 1024, "probe_window": 300}
TINY |= {"probe_steps": 2, "probe_batch_size": 2, "analysis_documents": 5, "ratio": 0.45}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LONGRECIPE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield prepare(settings.load("llama3", **TINY))


def stored(run, **changes):
    run = run.varied(**changes)
    dataset = run.stage_one_set(run.analyse())
    return run, np.array(dataset["input_ids"]), np.array(dataset["loss_weights"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["longrecipe", "pose"])
def test_anchor_weights_follow_the_anchors_of_the_analysis(method, run):
    run, ids, weights = stored(run, method=method, loss_weight="anchor", loss_weight_strength=3)
    mask = np.stack([run.types.mask(each, run.anchors(run.analyse())) for each in ids])
    assert weights.shape == ids.shape == (4, 460) and (weights[:, 0] == 0).all()
    for row, is_anchor in zip(weights[:, 1:], mask[:, 1:], strict=True):
        assert 0 < is_anchor.sum() < is_anchor.size
        np.testing.assert_allclose(row[is_anchor], 4 * row[~is_anchor][0], rtol=1e-5)
    np.testing.assert_allclose(weights[:, 1:].mean(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["shift", "longce", "helm"])
def test_scored_weights_are_those_of_the_models_of_the_analysis(scheme, run):
    run, ids, weights = stored(run, loss_weight=scheme, loss_context=None if scheme == "shift" else 64)
    base, longer = run.base(), run.probe().load()

    def by_windows(read):
        # H' reads 300 tokens at a time: the windows start at 0, 150 and 160.
        first, middle, last = (read(ids[:, start : start + 300]) for start in (0, 150, 160))
        return np.concatenate([first, middle[:, 149:], last[:, 289:]], axis=1)

    long = by_windows(lambda part: tokens.token_losses(longer, part))
    short = tokens.short_context_losses(longer, ids, 64)
    shift = by_windows(lambda p: tokens.next_token_scores(longer, p) - tokens.next_token_scores(base, p))
    wanted = {
        "shift": shift_weights(shift, 9),
        "longce": longce_weights(long, short, 5, context=64),
        "helm": helm_weights(long, short, 0.75),
    }[scheme]
    np.testing.assert_allclose(weights[:, 1:], wanted, rtol=2e-2, atol=2e-2)
    assert weights[:, 1:].std() > 0.05


@pytest.mark.slow
def test_sentences_are_selected_by_the_shifts_of_their_tokens(run):
    run = run.varied(selection="shift")
    assert run.analyse() is None
    dataset = run.stage_one_set(None)
    base, longer = run.base(), run.probe().load()
    other = run.varied(selection="random").stage_one_set(None)

    def shifts(rows):
        # In their document the tokens are read with more context; sentences that change most there change more here.
        ids = np.array(rows["input_ids"])
        found = [tokens.next_token_scores(network, ids[:, :300]) for network in (longer, base)]
        return (found[0] - found[1]).mean()

    assert dataset["input_ids"] != other["input_ids"] and shifts(dataset) > shifts(other)
    assert context_scores.seconds_of(run.folder("extend")) > 0


@pytest.mark.slow
def test_documents_are_kept_that_gain_most_from_long_context(run):
    plain = run.varied(method="flt", n_documents=4)
    candidates = np.array(run.varied(method="flt", n_documents=8).stage_one_set(None)["input_ids"])
    dataset = np.array(plain.varied(document_candidates=2, loss_context=64).stage_one_set(None)["input_ids"])
    longer = run.probe().load()
    # H' reads 300 tokens at a time, so this is its long context.
    long = tokens.in_windows(lambda ids: tokens.token_losses(longer, ids), candidates, 300)
    gains = (tokens.short_context_losses(longer, candidates, 64) - long).mean(axis=1)
    kept = sorted(np.argsort(-gains)[:4])
    np.testing.assert_array_equal(dataset, candidates[kept])
    # Without candidates the first documents are read, and no model.
    np.testing.assert_array_equal(np.array(plain.stage_one_set(None)["input_ids"]), candidates[:4])


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, 0),
        ({"loss_weight": "anchor"}, 0),
        ({"loss_weight": "shift"}, 2),
        # Windows of 256 tokens at 0, 128, ..., 896 and 972 of 1,228.
        ({"loss_weight": "longce"}, 1 + 9 * 256 / 1228),
        ({"loss_weight": "helm", "loss_context": 512}, 1 + 2 * 1024 / 1228),
        # Documents of 4,096 tokens, in three windows of 2,048.
        ({"selection": "shift", "ratio": 0.5}, 2 * 3),
        ({"method": "pose", "selection": "shift"}, 0),
        ({"method": "flt", "document_candidates": 4}, 4 * (3 * 2048 + 31 * 256) / 4096),
        ({"method": "none", "loss_weight": "longce"}, 0),
    ],
)
def test_forward_passes_are_counted(changes, passes):
    p = settings.load("llama3", **changes)
    assert context_scores.passes(p) == pytest.approx(passes) and context_scores.needs_scores(p) == (passes > 0)


def test_anchor_weights_without_a_token_analysis_are_an_error(run):
    with pytest.raises(ValueError, match="loss_weight = 'anchor' needs anchor tokens: run the token analysis first"):
        run.varied(method="pose", loss_weight="anchor").stage_one_set(None)


@pytest.mark.slow
def test_mean_weights_are_listed_by_type(run):
    table = weights_by_type(run.varied(ratio=0.9), run.analyse(), n_documents=4)
    assert list(table.columns) == ["share of all tokens", *SCHEMES] and {"number, new", "number, recall"} < {
        *table.index
    }
    assert table["share of all tokens"].sum() == pytest.approx(1)
    for scheme in ("anchor", "shift", "helm"):
        assert (table[scheme] * table["share of all tokens"]).sum() == pytest.approx(1, rel=1e-3)
    assert len(weights_by_type(run.varied(method="none"), None)) == 0


@pytest.mark.slow
def test_weights_change_what_stage_one_learns(run):
    plain, weighed = (run.varied(loss_weight=name) for name in ("none", "anchor"))
    losses = [each.extend(each.stage_one_set(each.analyse())).losses for each in (plain, weighed)]
    assert losses[0][0] != pytest.approx(losses[1][0], rel=1e-3)
    assert "loss_weights" not in plain.stage_one_set(plain.analyse()).column_names


def test_text_with_other_numbers_and_facts_with_words(run):
    kind, harder = run.text, prepare(settings.load("llama3", **TINY, distractors=1, fact_values="words")).text
    numbers = kind.facts.values
    for name in ("train", "held_out"):
        plain, mixed = getattr(kind.long, name), getattr(harder.long, name)
        assert not np.isin(plain, numbers).any()
        added = np.isin(mixed, numbers)
        assert added.sum() == round(len(plain) / 48)
        np.testing.assert_array_equal(mixed[~added], plain)
    assert not set(harder.facts.keys) & set(harder.facts.values) and not set(harder.facts.values) & set(numbers)
    assert set(harder.facts.keys) | set(harder.facts.values) == set(kind.facts.keys)
