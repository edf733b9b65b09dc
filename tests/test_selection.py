"""Sentence selection: which tokens a sample keeps of its document."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.data.facts import document
from longrecipe.data.selection import SELECTIONS, select, whole
from longrecipe.data.sentences import SentenceEnds, sentence_ends, sentence_lengths
from longrecipe.tokens import types_by_class

N_IDS, END, ANCHOR = 12, 9, 5
ENDS = SentenceEnds(np.arange(N_IDS) == END)
texts_of_ids = st.lists(st.integers(0, N_IDS - 1), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 2**32 - 1)


def segments(ids, lengths):
    return np.split(ids, np.cumsum(lengths)[:-1])


@pytest.mark.parametrize("how", SELECTIONS)
@given(ids=texts_of_ids, share=st.floats(0, 1), seed=seeds)
def test_selected_sentences_have_n_tokens_in_document_order(how, ids, share, seed):
    lengths, n = sentence_lengths(ids, ENDS), max(1, round(share * len(ids)))
    is_anchor = ids == ANCHOR
    # Places instead of ids, to see which tokens were selected.
    shift = np.random.default_rng(seed).normal(size=len(ids)).round(1)
    options = {"n_tokens": n, "how": how, "shift": shift}
    places, sizes, starts = select(np.arange(len(ids)), lengths, is_anchor, rng=np.random.default_rng(seed), **options)
    assert len(places) == n == sizes.sum() and (sizes > 0).all()
    assert (np.diff(places) > 0).all()
    length_at = dict(zip(np.cumsum(lengths) - lengths, lengths, strict=True))
    parts = segments(places, sizes)
    np.testing.assert_array_equal(starts, [part[0] for part in parts])
    for part in parts:
        np.testing.assert_array_equal(part, part[0] + np.arange(len(part)))
        assert len(part) <= length_at[part[0]], "a segment is the start of a sentence or all of it"
    assert sum(len(part) < length_at[part[0]] for part in parts) <= 1, "at most one sentence is cut"
    selected, *_ = select(ids, lengths, is_anchor, rng=np.random.default_rng(seed), **options)
    np.testing.assert_array_equal(selected, ids[places])
    # No sentence that is left out has a higher rank than one that is taken.
    taken = {part[0] for part in parts}
    anchors_of = {start: is_anchor[start : start + length].sum() for start, length in length_at.items()}
    merit = {
        "anchored": {start: anchors_of[start] > 0 for start in length_at},
        "density": {start: anchors_of[start] / length for start, length in length_at.items()},
        "shift": {start: shift[start : start + length].sum() / length for start, length in length_at.items()},
        "random": dict.fromkeys(length_at, 0),
        "first": {start: -start for start in length_at},
    }[how]
    left = [merit[start] for start in length_at if start not in taken]
    assert max(left, default=-np.inf) <= min(merit[start] for start in taken)


@pytest.mark.parametrize("how", SELECTIONS)
@given(ids=texts_of_ids, seed=seeds)
def test_selecting_all_tokens_gives_the_whole_document(how, ids, seed):
    lengths = sentence_lengths(ids, ENDS)
    rng = np.random.default_rng(seed)
    selected = select(ids, lengths, ids == ANCHOR, n_tokens=len(ids), rng=rng, how=how, shift=ids / 7)
    for one, other in zip(selected, whole(ids, lengths), strict=True):
        np.testing.assert_array_equal(one, other)


def test_whole_text_is_one_segment_by_default():
    sample = whole(np.array([4, 5, 6]))
    assert [each.tolist() for each in sample] == [[4, 5, 6], [3], [0]]
    sample = whole(np.array([4, 5, 6]), np.array([1, 2]))
    assert [each.tolist() for each in sample] == [[4, 5, 6], [1, 2], [0, 1]]


def outcomes(ids, lengths, is_anchor, *, n_tokens, how="anchored", draws=100):
    """All different selections in a hundred draws, as ids and lengths."""
    rng, found = np.random.default_rng(0), set()
    for _ in range(draws):
        selected, sizes, _ = select(np.array(ids), np.array(lengths), is_anchor, n_tokens=n_tokens, rng=rng, how=how)
        found.add((tuple(selected.tolist()), tuple(sizes.tolist())))
    return found


def test_example_in_the_docstring_of_select():
    ids = np.array([1, 9, 5, 9, 2])
    # Always the anchored sentence, and one of the others, cut to fit.
    assert outcomes(ids, [2, 2, 1], ids == ANCHOR, n_tokens=3) == {((5, 9, 2), (2, 1)), ((1, 5, 9), (1, 2))}


def test_the_same_id_can_be_an_anchor_in_one_place_only():
    # As a word can be a noun in one place and a verb in another.
    ids, is_anchor = [5, 9, 5, 9, 5, 9], np.array([False, False, True, False, False, False])
    found = outcomes(range(6), [2, 2, 2], is_anchor, n_tokens=2)
    assert found == {((2, 3), (2,))}
    assert {kept for kept, _ in outcomes(ids, [2, 2, 2], is_anchor, n_tokens=2)} == {(5, 9)}


def test_density_orders_sentences_by_anchors_per_token():
    lengths = [4, 2, 3, 5]
    # A quarter, a half, all and none of the tokens are anchors.
    is_anchor = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    for n_tokens, kept in {3: [2], 5: [1, 2], 9: [0, 1, 2], 14: [0, 1, 2, 3]}.items():
        parts = np.split(np.arange(14), np.cumsum(lengths)[:-1])
        expected = tuple(np.concatenate([parts[i] for i in kept]).tolist()), tuple(lengths[i] for i in kept)
        found = outcomes(range(14), lengths, is_anchor, n_tokens=n_tokens, how="density", draws=20)
        assert found == {expected}


def test_density_counts_per_token_and_breaks_ties_at_random():
    # Three anchors in eight tokens are a lower density than one in two. The two short sentences are tied.
    is_anchor = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0], dtype=bool)
    found = outcomes(range(12), [8, 2, 2], is_anchor, n_tokens=2, how="density")
    assert found == {((8, 9), (2,)), ((10, 11), (2,))}
    # The paper's selection does not count anchors, so all three are equal.
    assert len(outcomes(range(12), [8, 2, 2], is_anchor, n_tokens=2)) == 3


def test_random_selection_ignores_anchors(rng):
    lengths = rng.integers(1, 6, size=40)
    ids = np.arange(lengths.sum())
    for is_anchor in (rng.random(len(ids)) < 0.2, np.ones(len(ids), dtype=bool), None):
        found, expected = (
            select(ids, lengths, anchors, n_tokens=30, rng=np.random.default_rng(5), how="random")
            for anchors in (is_anchor, np.zeros(len(ids), dtype=bool))
        )
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", ["anchored", "density", "random"])
def test_tied_sentences_are_drawn_uniformly(how):
    is_anchor = np.tile([True, False], 6)
    rng, hits = np.random.default_rng(0), np.zeros(6)
    for _ in range(3000):
        selected, *_ = select(np.arange(12), np.full(6, 2), is_anchor, n_tokens=4, rng=rng, how=how)
        hits[np.unique(selected // 2)] += 1
    assert hits.sum() == 6000
    assert np.abs(hits - 1000).max() < 5 * np.sqrt(3000 * 1 / 3 * 2 / 3)


@given(ids=texts_of_ids, share=st.floats(0, 1))
def test_first_selects_the_start_of_the_document(ids, share):
    n = max(1, round(share * len(ids)))
    lengths, rng = sentence_lengths(ids, ENDS), np.random.default_rng(0)
    selected, sizes, _ = select(ids, lengths, None, n_tokens=n, rng=rng, how="first")
    np.testing.assert_array_equal(selected, ids[:n])
    np.testing.assert_array_equal(sizes, sentence_lengths(ids[:n], ENDS))


@pytest.mark.parametrize("n_tokens", [0, -3, 6])
@pytest.mark.parametrize("how", SELECTIONS)
def test_n_tokens_outside_of_the_document_is_an_error(n_tokens, how, rng):
    ids = np.array([1, 2, 9, 3, 4])
    with pytest.raises(ValueError, match=f"n_tokens = {n_tokens}: must be 1 to 5, the length of the document"):
        select(ids, np.array([3, 2]), ids == ANCHOR, n_tokens=n_tokens, rng=rng, how=how)


def test_unknown_selection_error_lists_selections(rng):
    ids = np.array([1, 2, 9, 3, 4])
    with pytest.raises(ValueError, match="selection = 'last': allowed are anchored, density, shift, random, first"):
        select(ids, np.array([3, 2]), ids == ANCHOR, n_tokens=2, rng=rng, how="last")


@pytest.mark.parametrize("how", ["anchored", "density"])
def test_selection_by_anchors_without_anchors_is_an_error(how, rng):
    with pytest.raises(ValueError, match=f"selection = '{how}' needs anchor tokens: run the token analysis first"):
        select(np.array([1, 2, 9, 3, 4]), np.array([3, 2]), None, n_tokens=2, rng=rng, how=how)


def test_selection_by_shift_takes_the_sentences_that_change_most_per_token(rng):
    ids, lengths = np.array([1, 2, 9, 3, 9, 4, 9]), np.array([3, 2, 2])
    # Sums of 3, 2.5 and -4: per token 1, 1.25 and -2.
    shift = np.array([3.0, 0, 0, 2.5, 0, -5, 1])
    found = select(ids, lengths, None, n_tokens=2, rng=rng, how="shift", shift=shift)
    assert [each.tolist() for each in found] == [[3, 9], [2], [3]]
    with pytest.raises(ValueError, match="selection = 'shift' needs the shifts of tokens: pass shift"):
        select(ids, lengths, ids == 3, n_tokens=2, rng=rng, how="shift")
    with pytest.raises(ValueError, match="shift has 2 entries, but the document has 7 tokens"):
        select(ids, lengths, None, n_tokens=2, rng=rng, how="shift", shift=shift[:2])


@pytest.fixture(scope="module")
def facts_per_token(tokenizer, corpus, facts):
    """For each selection, the share of fact values among the selected tokens of 20 documents; anchors are numbers."""
    rng, ends, types = np.random.default_rng(0), sentence_ends(tokenizer), types_by_class(tokenizer)
    kept = {how: [] for how in SELECTIONS if how != "shift"}
    for _ in range(20):
        ids = document(corpus.train, facts, 4096, rng=rng)
        is_anchor = types.mask(ids, ["number"])
        for how, shares in kept.items():
            lengths = sentence_lengths(ids, ends)
            selected, *_ = select(ids, lengths, is_anchor, n_tokens=1228, rng=rng, how=how)
            shares.append(np.isin(selected, facts.values).mean())
    return {how: np.mean(shares) for how, shares in kept.items()}


def test_selection_by_anchors_concentrates_facts(facts_per_token):
    # Measured: 3.2 to 3.4 times, depending on the seed.
    assert facts_per_token["anchored"] >= 2 * facts_per_token["random"] > 0
    assert facts_per_token["density"] >= facts_per_token["anchored"]
    # Neither control uses the facts.
    assert facts_per_token["first"] == pytest.approx(facts_per_token["random"], rel=0.2)


def test_is_anchor_of_another_length_is_an_error(rng):
    with pytest.raises(ValueError, match="is_anchor has 12 entries, but the document has 5 tokens"):
        select(np.array([1, 2, 9, 3, 4]), np.array([3, 2]), np.zeros(12, bool), n_tokens=2, rng=rng)
