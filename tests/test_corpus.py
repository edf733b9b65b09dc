import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import longrecipe.corpus as module
from longrecipe.corpus import excerpt, load_english, select, sentence_end_ids, sentence_lengths, token_strings
from longrecipe.facts import document

N_IDS, END, ANCHOR = 12, 9, 5
ENDS, ANCHORS = np.arange(N_IDS) == END, np.arange(N_IDS) == ANCHOR
texts_of_ids = st.lists(st.integers(0, N_IDS - 1), min_size=1, max_size=80).map(np.array)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def texts():
    return module.english_texts()


def segments(ids, lengths):
    return np.split(ids, np.cumsum(lengths)[:-1])


# sentences


def test_the_worked_example_of_sentence_lengths():
    assert sentence_lengths(np.array([1, 2, 9, 3, 4]), ENDS).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("ids", "lengths"), [([9], [1]), ([1], [1]), ([9, 9], [1, 1]), ([1, 9], [2]), ([9, 1, 9, 9], [1, 2, 1])]
)
def test_sentence_lengths_at_the_edges(ids, lengths):
    assert sentence_lengths(np.array(ids), ENDS).tolist() == lengths


@given(ids=texts_of_ids)
def test_sentences_end_at_their_end_token_only(ids):
    lengths = sentence_lengths(ids, ENDS)
    assert lengths.sum() == len(ids) and (lengths > 0).all()
    parts = segments(ids, lengths)
    assert all(END not in part[:-1] for part in parts)
    assert all(part[-1] == END for part in parts[:-1])


def test_sentence_ends_are_found_on_decoded_text(tokenizer):
    strings, ends = token_strings(tokenizer), sentence_end_ids(tokenizer)
    assert len(strings) == len(ends) == len(tokenizer) and ends.dtype == bool
    for text in ("Is it so?", "It is!", "It is.", "A line\n"):
        *inner, last = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ends[last] and not ends[inner].any()
    ids = np.array(tokenizer("One here. Two there! Three? Four", add_special_tokens=False)["input_ids"])
    parts = [tokenizer.decode(part) for part in segments(ids, sentence_lengths(ids, ends))]
    assert parts == ["One here.", " Two there!", " Three?", " Four"]


# selection


@settings(deadline=None)
@given(ids=texts_of_ids, share=st.floats(0, 1), seed=seeds)
def test_select_takes_exactly_n_tokens_in_document_order(ids, share, seed):
    lengths, n = sentence_lengths(ids, ENDS), max(1, round(share * len(ids)))
    # Every token is its own index, so that what is selected tells where it came from.
    anchored = np.isin(np.arange(len(ids)), np.flatnonzero(ANCHORS[ids]))
    places, sizes = select(np.arange(len(ids)), lengths, anchored, n, np.random.default_rng(seed))
    assert len(places) == n == sizes.sum() and (sizes > 0).all()
    assert (np.diff(places) > 0).all()
    starts = np.cumsum(lengths) - lengths
    whole = dict(zip(starts, lengths, strict=True))
    parts = segments(places, sizes)
    for part in parts:
        np.testing.assert_array_equal(part, part[0] + np.arange(len(part)))
        assert len(part) <= whole[part[0]], "a segment begins where a sentence does and holds no more than it"
    assert sum(len(part) < whole[part[0]] for part in parts) <= 1, "one sentence is cut at most"
    # Sentences without an anchor are there only where all those with one are.
    of_sentence = {start: anchored[start : start + length].any() for start, length in whole.items()}
    taken = {part[0] for part in parts}
    if not all(of_sentence[start] for start in taken):
        assert {start for start, has in of_sentence.items() if has} <= taken


@given(ids=texts_of_ids, seed=seeds)
def test_selecting_everything_gives_the_document_back(ids, seed):
    lengths = sentence_lengths(ids, ENDS)
    selected, sizes = select(ids, lengths, ANCHORS, len(ids), np.random.default_rng(seed))
    np.testing.assert_array_equal(selected, ids)
    np.testing.assert_array_equal(sizes, lengths)


def test_the_worked_example_of_select():
    ids, lengths = np.array([1, 9, 5, 9, 2]), np.array([2, 2, 1])
    rng, found = np.random.default_rng(0), set()
    for _ in range(100):
        selected, sizes = select(ids, lengths, ANCHORS, 3, rng)
        found.add((tuple(selected.tolist()), tuple(sizes.tolist())))
    # The anchored sentence always, and one of the others, cut to fit.
    assert found == {((5, 9, 2), (2, 1)), ((1, 5, 9), (1, 2))}


def test_anchored_sentences_are_drawn_uniformly():
    ids = np.tile([ANCHOR, END], 6)
    lengths = np.full(6, 2)
    rng, hits = np.random.default_rng(0), np.zeros(6)
    for _ in range(3000):
        selected, _ = select(np.arange(12), lengths, ids == ANCHOR, 4, rng)
        hits[np.unique(selected // 2)] += 1
    assert hits.sum() == 6000
    assert np.abs(hits - 1000).max() < 5 * np.sqrt(3000 * 1 / 3 * 2 / 3)


@pytest.mark.parametrize("n_tokens", [0, -3, 6])
def test_select_refuses_what_the_document_does_not_hold(n_tokens, rng):
    with pytest.raises(ValueError, match=f"n_tokens = {n_tokens}: the document holds 1 to 5 tokens"):
        select(np.array([1, 2, 9, 3, 4]), np.array([3, 2]), ANCHORS, n_tokens, rng)


def test_selection_concentrates_facts(tokenizer, corpus, facts):
    rng, ends = np.random.default_rng(0), sentence_end_ids(tokenizer)
    values = np.isin(np.arange(len(tokenizer)), facts.values)
    selected, whole = [], []
    for _ in range(20):
        ids = document(corpus.train, facts, 4096, rng)
        selected.append(values[select(ids, sentence_lengths(ids, ends), values, 1228, rng)[0]].mean())
        whole.append(values[ids].mean())
    assert np.mean(selected) >= 2 * np.mean(whole) > 0


# the embedded English


def test_the_english_is_clean(texts):
    assert len(texts) > 500 and sum(map(len, texts)) > 500_000
    whole = "\n".join(texts)
    assert not re.search(r"\d", whole)
    assert not re.search(r"[^\x20-\x7e\n]", whole)
    assert not re.search(r"[*_=`\"\\]|  ", whole)
    # Real English, whatever the Python version.
    assert all(whole.count(f" {word} ") > 1000 for word in ("the", "is", "of", "and"))


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
    monkeypatch.setattr(module, "english_texts", lambda: words)
    split = load_english(tokenizer, held_out_every=3)
    assert tokenizer.decode(split.held_out).split() == ["the", "one"]
    assert tokenizer.decode(split.train).split() == ["name", "is", "of", "these"]
    monkeypatch.setattr(module, "english_texts", lambda: [*words, "more"])
    assert load_english(tokenizer, held_out_every=3).sha256 != split.sha256
    with pytest.raises(ValueError, match="held_out_every = 1"):
        load_english(tokenizer, held_out_every=1)


# excerpts


@given(length=st.integers(1, 40), seed=seeds)
def test_an_excerpt_is_consecutive_on_a_ring(length, seed):
    found = excerpt(np.arange(10), length, np.random.default_rng(seed))
    assert len(found) == length
    assert set(np.diff(found)) <= {1, -9}


def test_excerpts_start_anywhere(rng):
    starts = {int(excerpt(np.arange(10), 3, rng)[0]) for _ in range(300)}
    assert starts == set(range(10))
