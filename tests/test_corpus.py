import hashlib
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import longrecipe.data.corpus as module
from longrecipe.data.corpus import (
    SELECTIONS,
    as_it_stands,
    excerpt,
    load_english,
    select,
    stretches,
)
from longrecipe.data.facts import document
from longrecipe.data.sentences import SentenceEnds, sentence_ends, sentence_lengths
from longrecipe.tokens import types_by_class

N_IDS, END, ANCHOR = 12, 9, 5
ENDS = SentenceEnds(np.arange(N_IDS) == END)
texts_of_ids = st.lists(st.integers(0, N_IDS - 1), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def texts():
    return module.english_texts()


@pytest.fixture(scope="module")
def natural():
    return module.english_texts(planted=False)


def segments(ids, lengths):
    return np.split(ids, np.cumsum(lengths)[:-1])


# selection


@pytest.mark.parametrize("how", SELECTIONS)
@given(ids=texts_of_ids, share=st.floats(0, 1), seed=seeds)
def test_select_takes_exactly_n_tokens_in_document_order(how, ids, share, seed):
    lengths, n = sentence_lengths(ids, ENDS), max(1, round(share * len(ids)))
    is_anchor = ids == ANCHOR
    # Places instead of ids, so that what is selected tells where it came from.
    places, sizes, starts = select(np.arange(len(ids)), lengths, is_anchor, n, np.random.default_rng(seed), how)
    assert len(places) == n == sizes.sum() and (sizes > 0).all()
    assert (np.diff(places) > 0).all()
    whole = dict(zip(np.cumsum(lengths) - lengths, lengths, strict=True))
    parts = segments(places, sizes)
    np.testing.assert_array_equal(starts, [part[0] for part in parts])
    for part in parts:
        np.testing.assert_array_equal(part, part[0] + np.arange(len(part)))
        assert len(part) <= whole[part[0]], "a segment begins where a sentence does and holds no more than it"
    assert sum(len(part) < whole[part[0]] for part in parts) <= 1, "one sentence is cut at most"
    selected, *_ = select(ids, lengths, is_anchor, n, np.random.default_rng(seed), how)
    np.testing.assert_array_equal(selected, ids[places])
    # What is left out never comes before what is taken: by having an anchor, by anchors a token, by place.
    taken = {part[0] for part in parts}
    anchors_of = {start: is_anchor[start : start + length].sum() for start, length in whole.items()}
    merit = {
        "anchored": {start: anchors_of[start] > 0 for start in whole},
        "density": {start: anchors_of[start] / length for start, length in whole.items()},
        "random": dict.fromkeys(whole, 0),
        "first": {start: -start for start in whole},
    }[how]
    left = [merit[start] for start in whole if start not in taken]
    assert max(left, default=-np.inf) <= min(merit[start] for start in taken)


@pytest.mark.parametrize("how", SELECTIONS)
@given(ids=texts_of_ids, seed=seeds)
def test_selecting_everything_gives_the_document_back(how, ids, seed):
    lengths = sentence_lengths(ids, ENDS)
    selected = select(ids, lengths, ids == ANCHOR, len(ids), np.random.default_rng(seed), how)
    for one, other in zip(selected, as_it_stands(ids, lengths), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_text_as_it_stands():
    sample = as_it_stands(np.array([4, 5, 6]))
    assert [each.tolist() for each in sample] == [[4, 5, 6], [3], [0]]
    sample = as_it_stands(np.array([4, 5, 6]), np.array([1, 2]))
    assert [each.tolist() for each in sample] == [[4, 5, 6], [1, 2], [0, 1]]


def outcomes(ids, lengths, is_anchor, n_tokens, how="anchored", draws=100):
    """All selections that come of a hundred draws: ids and lengths."""
    rng, found = np.random.default_rng(0), set()
    for _ in range(draws):
        selected, sizes, _ = select(np.array(ids), np.array(lengths), is_anchor, n_tokens, rng, how)
        found.add((tuple(selected.tolist()), tuple(sizes.tolist())))
    return found


def test_the_worked_example_of_select():
    ids = np.array([1, 9, 5, 9, 2])
    # The anchored sentence always, and one of the others, cut to fit.
    assert outcomes(ids, [2, 2, 1], ids == ANCHOR, 3) == {((5, 9, 2), (2, 1)), ((1, 5, 9), (1, 2))}


def test_anchors_are_places_not_ids():
    # The same id is an anchor in one place and none in another, as a word can be of two parts of speech.
    ids, is_anchor = [5, 9, 5, 9, 5, 9], np.array([False, False, True, False, False, False])
    found = outcomes(range(6), [2, 2, 2], is_anchor, 2)
    assert found == {((2, 3), (2,))}
    assert {kept for kept, _ in outcomes(ids, [2, 2, 2], is_anchor, 2)} == {(5, 9)}


def test_density_takes_sentences_by_falling_number_of_anchors_a_token():
    lengths = [4, 2, 3, 5]
    # A quarter, a half, all and none are anchors; the last by number and by share differ.
    is_anchor = np.array([0, 0, 1, 0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0], dtype=bool)
    for n_tokens, kept in {3: [2], 5: [1, 2], 9: [0, 1, 2], 14: [0, 1, 2, 3]}.items():
        parts = np.split(np.arange(14), np.cumsum(lengths)[:-1])
        expected = tuple(np.concatenate([parts[i] for i in kept]).tolist()), tuple(lengths[i] for i in kept)
        assert outcomes(range(14), lengths, is_anchor, n_tokens, "density", draws=20) == {expected}


def test_density_is_a_share_and_breaks_ties_at_random():
    # Three anchors in eight tokens are fewer a token than one in two; the two short sentences are alike.
    is_anchor = np.array([1, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1, 0], dtype=bool)
    found = outcomes(range(12), [8, 2, 2], is_anchor, 2, "density")
    assert found == {((8, 9), (2,)), ((10, 11), (2,))}
    # For the paper's selection a sentence with an anchor is one, however long.
    assert len(outcomes(range(12), [8, 2, 2], is_anchor, 2)) == 3


def test_random_selection_knows_nothing_of_anchors(rng):
    lengths = rng.integers(1, 6, size=40)
    ids = np.arange(lengths.sum())
    for is_anchor in (rng.random(len(ids)) < 0.2, np.ones(len(ids), dtype=bool), None):
        found = select(ids, lengths, is_anchor, 30, np.random.default_rng(5), "random")
        expected = select(ids, lengths, np.zeros(len(ids), dtype=bool), 30, np.random.default_rng(5), "random")
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("how", ["anchored", "density", "random"])
def test_sentences_that_are_alike_are_drawn_uniformly(how):
    is_anchor = np.tile([True, False], 6)
    rng, hits = np.random.default_rng(0), np.zeros(6)
    for _ in range(3000):
        selected, *_ = select(np.arange(12), np.full(6, 2), is_anchor, 4, rng, how)
        hits[np.unique(selected // 2)] += 1
    assert hits.sum() == 6000
    assert np.abs(hits - 1000).max() < 5 * np.sqrt(3000 * 1 / 3 * 2 / 3)


@given(ids=texts_of_ids, share=st.floats(0, 1))
def test_first_is_the_head_of_the_document(ids, share):
    n = max(1, round(share * len(ids)))
    selected, sizes, _ = select(ids, sentence_lengths(ids, ENDS), None, n, np.random.default_rng(0), "first")
    np.testing.assert_array_equal(selected, ids[:n])
    np.testing.assert_array_equal(sizes, sentence_lengths(ids[:n], ENDS))


@pytest.mark.parametrize("n_tokens", [0, -3, 6])
@pytest.mark.parametrize("how", SELECTIONS)
def test_select_refuses_what_the_document_does_not_hold(n_tokens, how, rng):
    ids = np.array([1, 2, 9, 3, 4])
    with pytest.raises(ValueError, match=f"n_tokens = {n_tokens}: the document holds 1 to 5 tokens"):
        select(ids, np.array([3, 2]), ids == ANCHOR, n_tokens, rng, how)


def test_unknown_selections_are_refused_with_those_there_are(rng):
    ids = np.array([1, 2, 9, 3, 4])
    with pytest.raises(ValueError, match="selection = 'last': allowed are anchored, density, random, first"):
        select(ids, np.array([3, 2]), ids == ANCHOR, 2, rng, "last")


@pytest.mark.parametrize("how", ["anchored", "density"])
def test_selections_by_anchors_need_anchors(how, rng):
    with pytest.raises(ValueError, match=f"selection = '{how}' goes by anchor tokens: run the token analysis first"):
        select(np.array([1, 2, 9, 3, 4]), np.array([3, 2]), None, 2, rng, how)


@pytest.fixture(scope="module")
def facts_per_token(tokenizer, corpus, facts):
    """For each selection the share of fact values among the tokens kept of 20 documents; anchors are numbers."""
    rng, ends, types = np.random.default_rng(0), sentence_ends(tokenizer), types_by_class(tokenizer)
    kept = {how: [] for how in SELECTIONS}
    for _ in range(20):
        ids = document(corpus.train, facts, 4096, rng)
        is_anchor = types.mask(ids, ["number"])
        for how, shares in kept.items():
            selected, *_ = select(ids, sentence_lengths(ids, ends), is_anchor, 1228, rng, how)
            shares.append(np.isin(selected, facts.values).mean())
    return {how: np.mean(shares) for how, shares in kept.items()}


def test_selection_by_anchors_concentrates_facts(facts_per_token):
    # Measured: 3.2 to 3.4 times, by seed.
    assert facts_per_token["anchored"] >= 2 * facts_per_token["random"] > 0
    assert facts_per_token["density"] >= facts_per_token["anchored"]
    # Neither control sees the facts.
    assert facts_per_token["first"] == pytest.approx(facts_per_token["random"], rel=0.2)


# the embedded English


def test_the_english_is_clean(texts):
    assert len(texts) > 500 and sum(map(len, texts)) > 500_000
    whole = "\n".join(texts)
    assert not re.search(r"\d", whole)
    assert not re.search(r"[^\x20-\x7e\n]", whole)
    assert not re.search(r"[*_=`\"\\]|  ", whole)
    # Real English, whatever the Python version.
    assert all(whole.count(f" {word} ") > 1000 for word in ("the", "is", "of", "and"))


def test_text_as_people_wrote_it_keeps_numbers_and_quotes(natural):
    assert len(natural) > 500 and sum(map(len, natural)) > 500_000
    whole = "\n".join(natural)
    assert len(re.findall(r"\d", whole)) > 1000
    assert all(whole.count(mark) > 1000 for mark in ("'", '"', "-", "_"))
    assert re.search(r"[^\x00-\x7f]", whole), "letters outside ASCII stay"
    # Rules, emphasis and runs of blanks are gone, paragraphs are not.
    assert not re.search(r"[=*~^_\-]{3,}|[*`]|  |\t|\n{3,}", whole)
    assert whole.count("\n\n") > 5000
    assert all(text.strip() for text in natural)


def test_no_long_paragraph_comes_twice(natural):
    counts = Counter(part for text in natural for part in text.split("\n\n"))
    assert max(count for part, count in counts.items() if len(part) >= 40) == 1
    # Short ones, headings for instance, may.
    assert max(counts.values()) > 1
    # The reference does repeat itself; the first of a paragraph stays, where it was.
    reference = [part for text in map(module._natural, module._reference()) for part in text.split("\n\n")]
    long = [part for part in reference if len(part) >= 40]
    assert len(set(long)) < 0.9 * len(long)
    kept = [part for text in natural for part in text.split("\n\n") if len(part) >= 40]
    assert kept[: len(set(long))] == list(dict.fromkeys(long))


def test_load_english_can_be_as_people_wrote_it(tokenizer, natural):
    split = load_english(tokenizer, planted=False)
    assert split.sha256 == hashlib.sha256("\n\n".join(natural).encode()).hexdigest()
    assert tokenizer.decode(split.held_out) == "\n\n".join(natural[::20])


def test_load_english_is_the_same_every_time(corpus, texts):
    assert corpus.sha256 == hashlib.sha256("\n\n".join(texts).encode()).hexdigest()


def test_load_english_holds_texts_out(corpus, texts, tokenizer):
    for ids in (corpus.train, corpus.held_out):
        assert ids.dtype == np.int64 and ids.ndim == 1
        assert ids.min() >= 0 and ids.max() < len(tokenizer)
    held = texts[::20]
    train = [text for i, text in enumerate(texts) if i % 20]
    assert tokenizer.decode(corpus.held_out) == "\n\n".join(held)
    assert tokenizer.decode(corpus.train) == "\n\n".join(train)
    assert not set(held) & set(train)


def test_no_number_is_in_the_english(corpus, facts):
    for ids in (corpus.train, corpus.held_out):
        assert not np.isin(ids, facts.values).any()


def test_one_text_in_so_many_is_held_out(monkeypatch, tokenizer):
    words = ["the", "name", "is", "one", "of", "these"]
    monkeypatch.setattr(module, "english_texts", lambda planted: words)
    split = load_english(tokenizer, held_out_every=3)
    assert tokenizer.decode(split.held_out).split() == ["the", "one"]
    assert tokenizer.decode(split.train).split() == ["name", "is", "of", "these"]
    monkeypatch.setattr(module, "english_texts", lambda planted: [*words, "more"])
    assert load_english(tokenizer, held_out_every=3).sha256 != split.sha256
    with pytest.raises(ValueError, match="held_out_every = 1"):
        load_english(tokenizer, held_out_every=1)


# stretches and excerpts


@given(count=st.integers(1, 12), length=st.integers(1, 12), spare=st.integers(0, 20))
def test_stretches_follow_each_other_from_the_start(count, length, spare):
    found = stretches(np.arange(count * length + spare), count, length)
    assert [len(each) for each in found] == [length] * count
    np.testing.assert_array_equal(np.concatenate(found), np.arange(count * length))


def test_a_text_too_short_for_its_stretches_is_refused_with_how_many_it_holds():
    source = np.arange(1999)
    message = "2 documents of 1000 tokens need 2,000 tokens; the corpus has 1,999: ask for at most 1 documents"
    with pytest.raises(ValueError, match=message):
        stretches(source, 2, 1000)
    assert len(stretches(source, 1, 1000)) == 1
    with pytest.raises(ValueError, match="ask for at most 4 documents"):
        stretches(source, 9, 450)


@given(length=st.integers(1, 40), seed=seeds)
def test_an_excerpt_is_consecutive_on_a_ring(length, seed):
    found = excerpt(np.arange(10), length, np.random.default_rng(seed))
    assert len(found) == length
    assert set(np.diff(found)) <= {1, -9}


def test_excerpts_start_anywhere(rng):
    starts = {int(excerpt(np.arange(10), 3, rng)[0]) for _ in range(300)}
    assert starts == set(range(10))


def test_anchors_of_another_length_are_refused(rng):
    with pytest.raises(ValueError, match="is_anchor has 12 entries, the document 5 tokens"):
        select(np.array([1, 2, 9, 3, 4]), np.array([3, 2]), np.zeros(12, bool), 2, rng)
