"""The embedded English."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest

from longrecipe.data import english
from longrecipe.data.english import english_texts, load_english


@pytest.fixture(scope="module")
def texts():
    return english_texts()


@pytest.fixture(scope="module")
def natural():
    return english_texts(planted=False)


@pytest.mark.slow
def test_planted_english_has_no_digits_or_markup(texts):
    assert len(texts) > 500 and sum(map(len, texts)) > 500_000
    whole = "\n".join(texts)
    assert not re.search(r"\d", whole)
    assert not re.search(r"[^\x20-\x7e\n]", whole)
    assert not re.search(r"[*_=`\"\\]|  ", whole)
    # Real English in all Python versions.
    assert all(whole.count(f" {word} ") > 1000 for word in ("the", "is", "of", "and"))


@pytest.mark.slow
def test_natural_english_keeps_numbers_and_quotes(natural):
    assert len(natural) > 500 and sum(map(len, natural)) > 500_000
    whole = "\n".join(natural)
    assert len(re.findall(r"\d", whole)) > 1000
    assert all(whole.count(mark) > 1000 for mark in ("'", '"', "-", "_"))
    assert re.search(r"[^\x00-\x7f]", whole), "letters outside ASCII are kept"
    # Rules, emphasis and repeated blanks are removed, paragraphs are kept.
    assert not re.search(r"[=*~^_\-]{3,}|[*`]|  |\t|\n{3,}", whole)
    assert whole.count("\n\n") > 5000
    assert all(text.strip() for text in natural)


def test_no_long_paragraph_occurs_twice(natural):
    counts = Counter(part for text in natural for part in text.split("\n\n"))
    assert max(count for part, count in counts.items() if len(part) >= 40) == 1
    # Short ones may, such as headings.
    assert max(counts.values()) > 1
    # The reference repeats itself. The first copy of a paragraph is kept in its place.
    reference = [part for text in map(english._natural, english._reference()) for part in text.split("\n\n")]
    long = [part for part in reference if len(part) >= 40]
    assert len(set(long)) < 0.9 * len(long)
    kept = [part for text in natural for part in text.split("\n\n") if len(part) >= 40]
    assert kept[: len(set(long))] == list(dict.fromkeys(long))


def test_load_english_can_load_natural_text(tokenizer, natural):
    split = load_english(tokenizer, planted=False)
    assert split.sha256 == hashlib.sha256("\n\n".join(natural).encode()).hexdigest()
    assert tokenizer.decode(split.held_out) == "\n\n".join(natural[::20])


def test_load_english_returns_the_hash_of_its_text(corpus, texts):
    assert corpus.sha256 == hashlib.sha256("\n\n".join(texts).encode()).hexdigest()


def test_load_english_holds_out_one_text_in_twenty(corpus, texts, tokenizer):
    for ids in (corpus.train, corpus.held_out):
        assert ids.dtype == np.int64 and ids.ndim == 1
        assert ids.min() >= 0 and ids.max() < len(tokenizer)
    held = texts[::20]
    train = [text for i, text in enumerate(texts) if i % 20]
    assert tokenizer.decode(corpus.held_out) == "\n\n".join(held)
    assert tokenizer.decode(corpus.train) == "\n\n".join(train)
    assert not set(held) & set(train)


def test_planted_english_has_no_values_of_facts(corpus, facts):
    for ids in (corpus.train, corpus.held_out):
        assert not np.isin(ids, facts.values).any()


def test_held_out_every_sets_the_share_of_held_out_texts(monkeypatch, tokenizer):
    words = ["the", "name", "is", "one", "of", "these"]
    monkeypatch.setattr(english, "english_texts", lambda planted: words)
    split = load_english(tokenizer, held_out_every=3)
    assert tokenizer.decode(split.held_out).split() == ["the", "one"]
    assert tokenizer.decode(split.train).split() == ["name", "is", "of", "these"]
    monkeypatch.setattr(english, "english_texts", lambda planted: [*words, "more"])
    assert load_english(tokenizer, held_out_every=3).sha256 != split.sha256
    with pytest.raises(ValueError, match="held_out_every = 1"):
        load_english(tokenizer, held_out_every=1)
