import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import longrecipe.tokens.types as module
from longrecipe.data.sentences import token_strings
from longrecipe.tokens import (
    CLASSES,
    UNIVERSAL,
    TaggerError,
    types_by_class,
    types_by_fact,
    types_by_pos,
    types_by_token,
)

TEXT = (
    "The interpreter raised 42 errors, and the parser doesn't remember why. This parser costs $1,000 at most!\n\n"
    "She reads well-known books (slowly): has she seen 7 warnings?"
)


def ids_of(tokenizer, text):
    return np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int64)


def named(tokenizer, types, text):
    """A text's tokens as they read, each with the name of its type."""
    ids, strings = ids_of(tokenizer, text), token_strings(tokenizer)
    return [(strings[i], types.names[kind]) for i, kind in zip(ids, types.of(ids), strict=True)]


# classes and token ids


def test_every_token_has_the_class_of_its_text(tokenizer):
    types = types_by_class(tokenizer)
    assert (types.by, types.names) == ("class", CLASSES)
    for text, expected in {
        " 42": "number",
        "7": "number",
        " the": "word",
        " The": "capitalised word",
        "ing": "word part",
        "The": "word part",
        ".": "punctuation",
        " (": "punctuation",
        "\n": "newline",
        " \n": "newline",
        "\n\n": "newline",
        " ": "other",
        "\t": "other",
    }.items():
        (token,) = ids_of(tokenizer, text)
        assert types.names[types.of(np.array([token]))[0]] == expected, text
    whole = types.of(np.arange(len(tokenizer)))
    assert whole.shape == (1024,) and whole.dtype == np.int64
    # The mini tokenizer has no other digits than the ten and the numbers of planted facts, 10 to 99.
    assert (whole == CLASSES.index("number")).sum() == 100


def test_numbers_of_new_facts_and_recalls_are_types_of_their_own(tokenizer, facts):
    types = types_by_fact(tokenizer, facts)
    key = token_strings(tokenizer)[facts.keys[0]]
    text = f"See 42. Note:{key} 17. Recall:{key} 17 and 18. Note:{key}"
    kinds = [name for _, name in named(tokenizer, types, text) if name.startswith("number")]
    assert kinds == ["number", "number, new", "number, recall", "number"]
    ids, classes = ids_of(tokenizer, text), types_by_class(tokenizer)
    others = np.array([name.startswith("number") for _, name in named(tokenizer, classes, text)])
    np.testing.assert_array_equal(types.of(ids)[~others], classes.of(ids)[~others])
    assert types.of(ids[:2]).tolist() == classes.of(ids[:2]).tolist()


def test_incomplete_characters_have_class_other(tokenizer):
    types = types_by_class(tokenizer)
    assert [name for _, name in named(tokenizer, types, "é")] == ["other", "other"]


def test_types_by_token_has_one_type_for_each_token(tokenizer, rng):
    types = types_by_token(tokenizer)
    assert types.by == "token" and len(set(types.names)) == len(tokenizer)
    ids = rng.integers(0, len(tokenizer), size=50)
    np.testing.assert_array_equal(types.of(ids), ids)
    (token,) = ids_of(tokenizer, " the")
    assert types.names[token] == f"{token} ' the'"


# the mask of chosen types


def test_mask_marks_the_tokens_of_the_chosen_types(tokenizer):
    types, ids = types_by_class(tokenizer), ids_of(tokenizer, " the 42 errors, 17.")
    mask = types.mask(ids, ["number", "punctuation"])
    assert mask.dtype == bool and mask.shape == ids.shape
    assert [tokenizer.decode(i) for i in ids[mask]] == [" 42", ",", " 17", "."]
    assert not types.mask(ids, []).any()
    assert types.mask(ids, list(CLASSES)).all()


def test_mask_of_unknown_types_error_lists_types(tokenizer):
    ids = np.array([5, 6])
    with pytest.raises(ValueError, match=r"no token types \['NUM', 'verb'\] by class: there are number, word,.*other"):
        types_by_class(tokenizer).mask(ids, ["verb", "number", "NUM"])
    # Of a thousand names the message lists some.
    with pytest.raises(ValueError, match="by token: there are 0 ") as error:
        types_by_token(tokenizer).mask(ids, ["the"])
    assert len(str(error.value)) < 1000


# parts of speech


@pytest.fixture
def sentences(monkeypatch):
    """A tagger that tags by a word's first character, so that places can be checked, and the sentences it was given."""
    seen = []

    def tag(words):
        seen.append(list(words))
        return [first_letter_tag(word) for word in words]

    monkeypatch.setattr(module, "tagger", lambda name: tag)
    return seen


def first_letter_tag(word):
    return UNIVERSAL[ord(word[0]) % len(UNIVERSAL)]


def test_sentences_are_tagged_one_by_one_word_by_word(tokenizer, sentences):
    types_by_pos(tokenizer).of(ids_of(tokenizer, TEXT))
    assert [" ".join(words) for words in sentences] == [
        "The interpreter raised 42 errors , and the parser does n't remember why .",
        "This parser costs $ 1,000 at most !",
        "She reads well-known books ( slowly ) : has she seen 7 warnings ?",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("they're John's, I'd've", ["they", "'re", "John", "'s", ",", "I", "'d", "'ve"]),
        ("can't won't", ["ca", "n't", "wo", "n't"]),
        ("rock'n'roll in-place", ["rock'n'roll", "in-place"]),
        ("12:30 x86 3,14 2nd", ["12:30", "x86", "3,14", "2", "nd"]),
        ("__init__(self)", ["__", "init", "__", "(", "self", ")"]),
        ('"so"--he', ['"', "so", '"', "-", "-", "he"]),
    ],
)
def test_words_are_split_as_taggers_expect(tokenizer, sentences, text, words):
    types_by_pos(tokenizer).of(ids_of(tokenizer, text))
    assert sentences == [words]


def assert_tokens_have_the_tags_of_their_words(tokenizer, types, text):
    """By the tokenizer's own offsets: a token has the tag of the word over its first character that is no blank."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    kinds = types.of(np.array(encoded["input_ids"], dtype=np.int64))
    for (start, stop), kind in zip(encoded["offset_mapping"], kinds, strict=True):
        solid = [i for i in range(start, stop) if not text[i].isspace()]
        if not solid:
            assert types.names[kind] == "SPACE", (text, start)
            continue
        # Words of these texts are letters or digits; every other character is a word of its own.
        first = solid[0]
        word = next((m.start() for m in re.finditer(r"[A-Za-z0-9]+", text) if m.start() <= first < m.end()), first)
        assert types.names[kind] == first_letter_tag(text[word:]), (text, start)


def test_token_has_the_tag_of_its_word(tokenizer, sentences):
    text = "  The undocumented interpreter, when it is called,\treturns 42 (or 123456) objects.  \n\n Is it so?  No"
    types = types_by_pos(tokenizer)
    assert_tokens_have_the_tags_of_their_words(tokenizer, types, text)
    pieces = named(tokenizer, types, text)
    # The check means little unless words are split.
    assert len(pieces) > 1.5 * len(text.split())


@given(text=st.text("abTe1 ,.!()\n\t$", min_size=1, max_size=60))
def test_a_token_has_the_tag_of_its_word_in_any_text(tokenizer, text):
    with pytest.MonkeyPatch.context() as patch:
        # A digit before a letter begins a word of its own; keep them apart, so that the test stays simple.
        text = re.sub(r"(?<=\d)(?=[a-zA-Z])|(?<=[a-zA-Z])(?=\d)", " ", text).replace(",", ";")
        patch.setattr(module, "tagger", lambda name: lambda words: [first_letter_tag(word) for word in words])
        assert_tokens_have_the_tags_of_their_words(tokenizer, types_by_pos(tokenizer), text)


@given(text=st.text(max_size=60))
def test_every_token_of_any_text_gets_a_type(tokenizer, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "tagger", lambda name: lambda words: ["X"] * len(words))
        types, ids = types_by_pos(tokenizer), ids_of(tokenizer, text)
        kinds = types.of(ids)
    assert kinds.shape == ids.shape
    strings = token_strings(tokenizer)
    assert [types.names[kind] for kind in kinds] == ["X" if strings[i].strip() else "SPACE" for i in ids]


def test_document_is_tagged_once_and_results_are_copies(tokenizer, sentences):
    types, ids = types_by_pos(tokenizer), ids_of(tokenizer, "The interpreter raised 42 errors.")
    first = types.of(ids)
    expected = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(types.of(ids), expected)
    assert len(sentences) == 1
    # Another document, and another way to sort, are tagged anew.
    types.of(ids[:-1])
    types_by_pos(tokenizer).of(ids)
    assert len(sentences) == 3


def test_document_may_end_inside_a_word(tokenizer, sentences):
    ids = ids_of(tokenizer, "One interpreter")
    types = types_by_pos(tokenizer)
    for stop in range(1, len(ids) + 1):
        np.testing.assert_array_equal(types.of(ids[:stop]), types.of(ids)[:stop])


@pytest.mark.parametrize("name", ["hanta", "textblob"])
def test_real_parts_of_speech(tokenizer, name):
    if name == "textblob":
        pytest.importorskip("textblob")
    types = types_by_pos(tokenizer, name)
    assert (types.by, types.names) == ("pos", (*UNIVERSAL, "SPACE"))
    pieces = named(tokenizer, types, TEXT)
    assert "".join(text for text, _ in pieces) == TEXT

    def tags_of(word):
        """The tags of all tokens that lie in the one place of a word."""
        start, place, found = TEXT.index(word), 0, []
        for text, tag in pieces:
            solid = place + len(text) - len(text.lstrip())
            if text.strip() and start <= solid < start + len(word):
                found.append(tag)
            place += len(text)
        return found

    for word, tag in {
        "The": "DET",
        "interpreter": "NOUN",
        "42": "NUM",
        "1,000": "NUM",
        "$": "SYM",
        "errors": "NOUN",
        ", and": "PUNCT",
        "doesn't": "AUX",
        "n't": "PART",
        "remember": "VERB",
        "This": "DET",
        "She": "PRON",
        "slowly": "ADV",
        "seen": "VERB",
        "7": "NUM",
    }.items():
        assert tags_of(word)[0] == tag, word
        if word.isalnum() or word in ("1,000", "n't"):
            assert set(tags_of(word)) == {tag}, f"parts of {word} share its tag"
    assert len(tags_of("interpreter")) > 1 and len(tags_of("1,000")) > 3
    assert all((tag == "SPACE") == (not text.strip()) for text, tag in pieces)


def test_missing_tagger_is_an_error_before_any_text(tokenizer):
    with pytest.raises(TaggerError, match="'en_no_such_pipeline'"):
        types_by_pos(tokenizer, "en_no_such_pipeline")


def test_a_repeated_sentence_is_tagged_once(tokenizer, monkeypatch):
    asked = []

    def tag(words):
        asked.append(words)
        return ["NOUN"] * len(words)

    monkeypatch.setattr(module, "tagger", lambda name: tag)
    types = types_by_pos(tokenizer)
    first, second = ids_of(tokenizer, "She reads. He writes. She reads."), ids_of(tokenizer, "He writes. They read.")
    types.of(first)
    types.of(second)
    assert [" ".join(words) for words in asked] == ["She reads .", "He writes .", "They read ."]
