from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrecipe.data.facts import document, fact_format, hide, is_key, is_value, quiz, short_sample
from longrecipe.data.sentences import SentenceEnds

seeds = st.integers(0, 2**32 - 1)
# Planted facts are recognised by their numbers, so other ids can be text.
TEXT = np.arange(400, 600)


def holds(ids, end, part):
    """Whether ids has part, which ends before index end."""
    return np.array_equal(ids[max(0, end - len(part)) : end], part)


def statements(ids, facts):
    """All planted statements of a text, in order: (kind, key, value, index of the value)."""
    found = []
    for i in np.flatnonzero(np.isin(ids, facts.values)):
        kinds = [kind for kind in ("note", "recall") if holds(ids, i - 1, getattr(facts, kind))]
        assert len(kinds) == 1, "every number is the value of a note or of a recall"
        found.append((kinds[0], int(ids[i - 1]), int(ids[i]), int(i)))
    return found


@pytest.fixture(scope="module")
def source(facts):
    return np.setdiff1d(TEXT, np.concatenate([facts.keys, facts.values, facts.note, facts.recall, facts.stop]))


# formats


def test_statements_are_decoded_as_facts_and_recalls(tokenizer, facts):
    key, value = tokenizer(" name", add_special_tokens=False)["input_ids"][0], facts.values[7]
    assert key in facts.keys
    assert tokenizer.decode(facts.statement(facts.note, key, value)) == " Note: name 17."
    assert tokenizer.decode(facts.statement(facts.recall, key, value)) == " Recall: name 17."
    assert all(getattr(facts, name).dtype == np.int64 for name in ("note", "recall", "stop", "keys", "values"))


def test_keys_are_words_and_values_numbers_of_one_token(tokenizer, facts):
    assert [tokenizer.decode([i]) for i in facts.values] == [f" {i}" for i in range(10, 100)]
    for i in facts.keys:
        word = tokenizer.decode([i])
        assert word[0] == " " and word[1:].isalpha() and word[1:].islower() and len(word) >= 5
        assert tokenizer(word, add_special_tokens=False)["input_ids"] == [i]
    assert len(set(facts.keys)) == len(facts.keys) >= 32


@pytest.mark.parametrize("text", [" name", " class", " underlying"])
def test_keys_are_words_after_a_blank(text):
    assert is_key(text)
    for other in (
        text[1:],
        " " + text,
        text[:4],
        text + " ",
        text + "\n",
        text.title(),
        text + "7",
        text + "'s",
        text + ".",
    ):
        assert not is_key(other)


def test_values_are_two_digit_numbers_after_a_blank():
    assert [text for text in (f" {i}" for i in range(200)) if is_value(text)] == [f" {i}" for i in range(10, 100)]
    assert not any(is_value(text) for text in ("12", "  12", " 12 ", " 12\n", " 1.2", " 012", " 05", " \u0661\u0662"))


def test_tokenizer_without_one_token_numbers_is_an_error(monkeypatch):
    words = [f" {a}{b}word" for a in "abcdef" for b in "abcdef"]
    monkeypatch.setattr("longrecipe.data.facts.token_strings", lambda tokenizer: [*words, " 10", " 11"])
    with pytest.raises(ValueError, match="36 one-token words and 2 one-token two-digit numbers"):
        fact_format(SimpleNamespace())


# documents


@settings(deadline=None, max_examples=40)
@given(length=st.integers(1, 1500), seed=seeds)
def test_every_recall_was_noted_before(source, facts, length, seed):
    ids = document(source, facts, length, rng=np.random.default_rng(seed))
    assert len(ids) == length and ids.dtype == np.int64
    known = {}
    for kind, key, value, _ in statements(ids, facts):
        if kind == "note":
            known.setdefault(key, set()).add(value)
        else:
            assert value in known[key]


def test_documents_have_notes_further_values_and_recalls(source, facts, rng):
    found = statements(document(source, facts, 20_000, rng=rng, filler=(4, 8)), facts)
    notes = [(key, value) for kind, key, value, _ in found if kind == "note"]
    assert 0.2 < len(notes) / len(found) < 0.3
    assert len({key for key, _ in notes}) < 0.9 * len(notes), "some keys have several values"
    assert set(np.diff([i for *_, i in found])) <= set(range(4 + 5, 8 + 12)), "filler and one statement in between"


def test_documents_depend_on_the_seed(source, facts):
    first, again, other = (document(source, facts, 300, rng=np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# haystacks


def notes(facts, count, rng):
    """Statements of facts, all with different keys and values."""
    keys, values = (rng.choice(each, size=count, replace=False) for each in (facts.keys, facts.values))
    return [facts.statement(facts.note, key, value) for key, value in zip(keys, values, strict=True)]


@settings(deadline=None, max_examples=40)
@given(n_facts=st.integers(1, 8), spare=st.integers(0, 400), shuffle=st.booleans(), seed=seeds)
def test_needles_are_at_the_returned_depths(source, facts, n_facts, spare, shuffle, seed):
    rng = np.random.default_rng(seed)
    # Needles may differ in length.
    needles = [needle[i % 3 :] for i, needle in enumerate(notes(facts, n_facts, rng))]
    length = sum(map(len, needles)) + spare
    ids, depths = hide(source, needles, length, rng=rng, shuffle=shuffle)
    assert len(ids) == length and ids.dtype == np.int64
    assert np.isin(ids, facts.values).sum() == n_facts == len(depths)
    assert ((depths >= 0) & (depths < 1)).all()
    for needle, depth in zip(needles, depths, strict=True):
        start = round(depth * length)
        assert depth * length == pytest.approx(start)
        np.testing.assert_array_equal(ids[start : start + len(needle)], needle)
    if not shuffle:
        assert (np.diff(depths) > 0).all(), "in the order given"


def test_text_around_needles_is_one_stretch(facts, rng):
    source, needles = np.arange(5000) + 10_000, notes(facts, 4, rng)
    ids, _ = hide(source, needles, 400, rng=rng)
    text = ids[ids >= 10_000]
    assert len(text) == 400 - sum(map(len, needles))
    assert set(np.diff(text)) <= {1, 1 - len(source)}


@pytest.mark.parametrize("shuffle", [True, False])
def test_needles_are_at_all_depths_in_all_orders(source, facts, rng, shuffle):
    needles = notes(facts, 4, rng)
    depths = np.stack([hide(source, needles, 512, rng=rng, shuffle=shuffle)[1] for _ in range(2000)])
    # Uniform on 0 .. 1: each quarter of the text gets a quarter of the needles.
    shares = np.histogram(depths, bins=4, range=(0, 1))[0] / depths.size
    assert np.abs(shares - 0.25).max() < 0.03
    firsts = np.bincount(depths.argmin(axis=1), minlength=4) / 2000
    if shuffle:
        # The mean depth of each fact is near the middle, and each is equally often the first.
        assert np.abs(depths.mean(axis=0) - 0.5).max() < 0.04
        assert np.abs(firsts - 0.25).max() < 0.05
    else:
        assert firsts.tolist() == [1, 0, 0, 0]


def test_needles_are_hidden_after_the_head_and_at_the_ends_of_sentences(rng):
    # Token 9 ends a sentence; needles are tokens from 100 on, the head is -1.
    source, needle, head = np.tile(np.arange(10), 30), np.array([100, 101]), np.full(7, -1)
    for _ in range(20):
        ids, depths = hide(source, 3 * [needle], 120, rng=rng, head=head, ends=SentenceEnds(np.arange(200) == 9))
        assert len(ids) == 120
        np.testing.assert_array_equal(ids[:7], head)
        starts = np.flatnonzero(ids == 100)
        np.testing.assert_allclose(np.sort(depths), starts / 120)
        assert all(ids[start - 1] in (9, 101) for start in starts)


def test_text_without_sentence_ends_hides_needles_anywhere(rng):
    source, needle = np.arange(10), np.array([100])
    places = [hide(source, [needle], 50, rng=rng, ends=SentenceEnds(np.arange(200) == 77))[1][0] for _ in range(20)]
    assert len(set(places)) > 5


def test_needles_that_do_not_fit_are_an_error(source, facts, rng):
    needles = notes(facts, 4, rng)
    need = sum(map(len, needles))
    with pytest.raises(ValueError, match=f"4 facts need {need} tokens, but the haystack has {need - 1}"):
        hide(source, needles, need - 1, rng=rng)
    assert len(hide(source, needles, need, rng=rng)[0]) == need


# questions


@settings(deadline=None, max_examples=40)
@given(n_facts=st.integers(1, 6), n_questions=st.integers(1, 6), spare=st.integers(0, 200), seed=seeds)
def test_quiz_ends_in_right_answers(source, facts, n_facts, n_questions, spare, seed):
    note, recall = (len(part) + 2 + len(facts.stop) for part in (facts.note, facts.recall))
    length = n_facts * note + n_questions * recall + spare
    rng = np.random.default_rng(seed)
    ids = quiz(source, facts, length, n_facts=n_facts, n_questions=n_questions, rng=rng)
    assert len(ids) == length
    found = statements(ids, facts)
    noted = {key: value for kind, key, value, _ in found if kind == "note"}
    asked = [(key, value) for kind, key, value, _ in found if kind == "recall"]
    assert (len(noted), len(set(noted.values())), len(asked)) == (n_facts, n_facts, n_questions)
    assert all(noted[key] == value for key, value in asked)
    assert [kind for kind, *_ in found] == ["note"] * n_facts + ["recall"] * n_questions
    assert holds(ids, length, facts.stop)


# short samples


@pytest.mark.parametrize("length", [64, 128, 256])
def test_short_samples_have_their_length_and_true_recalls(source, facts, length):
    rng = np.random.default_rng(length)
    for _ in range(60):
        ids = short_sample(source, facts, length, rng=rng)
        assert len(ids) == length and ids.dtype == np.int64
        noted = set()
        for kind, key, value, _ in statements(ids, facts):
            assert kind == "note" or (key, value) in noted
            noted.add((key, value))


def test_short_samples_are_mixed_by_their_shares(source, facts, rng):
    plain = [short_sample(source, facts, 64, rng=rng, fact_share=0, repeat_share=0) for _ in range(20)]
    assert not any(np.isin(ids, facts.values).any() for ids in plain)
    planted = [short_sample(source, facts, 256, rng=rng, fact_share=1, repeat_share=0) for _ in range(20)]
    assert all(np.isin(ids, facts.values).any() for ids in planted)
    for ids in (short_sample(source, facts, 90, rng=rng, fact_share=0, repeat_share=1) for _ in range(20)):
        sizes = [n for n in range(8, 31) if np.array_equal(ids[:n], ids[n : 2 * n])]
        assert sizes, "the text begins with a repeated part"
