import importlib.machinery
import importlib.util
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from longrecipe.tokens import UNIVERSAL, TaggerError
from longrecipe.tokens.taggers import tagger

# Tagged by hand before any tagger saw them; by the guidelines of Universal Dependencies.
BY_HAND = """
The/DET old/ADJ man/NOUN walked/VERB slowly/ADV to/ADP the/DET river/NOUN ./PUNCT
She/PRON has/AUX seen/VERB two/NUM birds/NOUN and/CCONJ a/DET cat/NOUN in/ADP the/DET garden/NOUN ./PUNCT
We/PRON do/AUX n't/PART know/VERB whether/SCONJ it/PRON is/AUX true/ADJ ./PUNCT
They/PRON have/VERB 3/NUM dogs/NOUN ,/PUNCT but/CCONJ he/PRON did/VERB his/PRON work/NOUN ./PUNCT
The/DET price/NOUN is/AUX $/SYM 42.50/NUM at/ADP most/ADJ ./PUNCT
Oh/INTJ ,/PUNCT you/PRON can/AUX read/VERB Paris/PROPN and/CCONJ London/PROPN in/ADP it/PRON ./PUNCT
If/SCONJ the/DET file/NOUN does/AUX not/PART exist/VERB ,/PUNCT an/DET error/NOUN is/AUX raised/VERB ./PUNCT
John/PROPN 's/PART sister/NOUN must/AUX be/AUX very/ADV happy/ADJ because/SCONJ her/PRON son/NOUN was/AUX born/VERB
"""
SENTENCES = [[word.rsplit("/", 1) for word in line.split()] for line in BY_HAND.strip().splitlines()]
PACKAGES = {"hanta": "HanTa", "textblob": "textblob"}


@pytest.fixture(scope="module", params=["hanta", "textblob"])
def tag(request):
    if request.param == "textblob":
        pytest.importorskip("textblob")
    return tagger(request.param)


def tagged(tag, text):
    words = text.split()
    return list(zip(words, tag(words), strict=True))


# what taggers find


def test_most_tags_agree_with_tags_by_hand(tag):
    right = [
        (word, expected, found)
        for sentence in SENTENCES
        for (word, expected), found in zip(sentence, tag([word for word, _ in sentence]), strict=True)
        if found == expected
    ]
    n_words = sum(map(len, SENTENCES))
    assert n_words > 80
    # Measured: HanTa 1.2 0.99, TextBlob 0.20 0.98.
    assert len(right) / n_words >= 0.95
    # No tag of the hand's is never found.
    hand = Counter(expected for sentence in SENTENCES for _, expected in sentence)
    assert set(hand) == set(UNIVERSAL) - {"X"}
    assert {expected for _, expected, _ in right} == set(hand)


@pytest.mark.parametrize(
    ("text", "word", "expected"),
    [
        # be is always AUX
        ("It is .", "is", "AUX"),
        ("They are being read .", "being", "AUX"),
        ("I 'm here .", "'m", "AUX"),
        # do and have before another verb, with what may stand between
        ("They had not yet seen it .", "had", "AUX"),
        ("Do you know him ?", "Do", "AUX"),
        ("What did he say ?", "did", "AUX"),
        ("We 've seen it .", "'ve", "AUX"),
        ("She had had enough .", "had", "AUX"),
        # and on their own
        ("They have a cat .", "have", "VERB"),
        ("He does his work .", "does", "VERB"),
        ("I have to go .", "have", "VERB"),
        ("She had it .", "had", "VERB"),
        # modal verbs
        ("You must not go .", "must", "AUX"),
        ("I would go .", "would", "AUX"),
    ],
)
def test_be_do_and_have_are_auxiliary_or_verb(tag, text, word, expected):
    assert dict(reversed(tagged(tag, text)))[word] == expected


def test_second_have_is_the_verb(tag):
    assert [kind for _, kind in tagged(tag, "She had had enough .")][1:3] == ["AUX", "VERB"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("We went to the river .", "ADP"),
        ("We want to see it .", "PART"),
        ("We want to really see it .", "PART"),
    ],
)
def test_to_is_a_particle_before_a_verb_and_a_preposition_otherwise(tag, text, expected):
    assert dict(tagged(tag, text))["to"] == expected


def test_negation_is_a_particle(tag):
    assert dict(tagged(tag, "It is not true ."))["not"] == "PART"
    assert dict(tagged(tag, "It is n't true ."))["n't"] == "PART"


def test_clitics_of_be_and_have_are_auxiliary_with_hanta():
    tag = tagger("hanta")
    for text in ("He 's gone .", "It 's been done .", "He 's a man ."):
        assert dict(tagged(tag, text))["'s"] == "AUX", text
    assert dict(tagged(tag, "John 's cat ."))["'s"] == "PART"


def test_curly_apostrophes_are_read_as_straight_ones(tag):
    for text in ("They 're here .", "I do n't know .", "We 've seen John 's cat .", "It 'll go ; I 'm sure ."):
        words = text.split()
        assert tag([word.replace("'", "\u2019") for word in words]) == tag(words)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("% $ + & # @ / \\ ^ | ~ < > = € ° \N{MULTIPLICATION SIGN}", "SYM"),
        (". , ; : ! ? ( ) [ ] - — \" ' “ ” … __", "PUNCT"),
        ("7 42 3.14 1,000 12:30 007 2.", "NUM"),
    ],
)
def test_signs_and_digits_are_tagged_by_their_characters(tag, words, expected):
    # Each in the middle of a sentence, where a tagger would like a noun.
    for word in words.split():
        assert dict(tagged(tag, f"the {word} of it"))[word] == expected, word


def test_number_words_are_numbers(tag):
    found = dict(tagged(tag, "Two of the three read ten books ."))
    assert [found[word] for word in ("three", "ten")] == ["NUM", "NUM"]


def test_every_word_gets_one_universal_tag(tag):
    odd = "naïve 東 \ufffd \x00 a_b ``quoted'' http://x.y/z?q=1 C:\\dir ... e.g. rock'n'roll ' _ don’t MIXED iPhone"
    for text in (odd, odd[::-1], *odd.split()):
        found = tag(text.split())
        assert len(found) == len(text.split()) and set(found) <= set(UNIVERSAL)


def test_other_taggers_give_the_same_tags_to_easy_words():
    pytest.importorskip("textblob")
    text = "The cat and the dog saw 3 birds in the garden ."
    assert tagged(tagger("hanta"), text) == tagged(tagger("textblob"), text)


# what is not installed


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hanta", "tagger = 'hanta' needs the package HanTa: pip install 'HanTa'"),
        ("textblob", "tagger = 'textblob' needs the package textblob: pip install '"),
        (
            "en_core_web_sm",
            "tagger = 'en_core_web_sm' needs the package spacy: pip install 'spacy'.*hanta and textblob",
        ),
    ],
)
def test_missing_package_error_says_what_to_install(nothing_installed, name, message):
    with pytest.raises(TaggerError, match=message):
        tagger(name)


def test_named_extra_contains_the_package(nothing_installed):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, package in PACKAGES.items():
        with pytest.raises(TaggerError) as error:
            tagger(name)
        (wanted,) = re.findall("pip install '(.+?)'", str(error.value))
        if extra := re.fullmatch(r"longrecipe\[(\w+)\]", wanted):
            assert any(each.startswith(package) for each in project["optional-dependencies"][extra[1]])
        else:
            assert wanted == package
    # The default tagger comes with the kit.
    assert any(each.startswith("HanTa") for each in project["dependencies"])


# spaCy, which is no dependency: a stand-in of the few parts that are used


@pytest.fixture
def spacy(monkeypatch):
    """A module `spacy` whose pipelines are named in its dict `pipelines`: name to the tag of each word."""
    fake = ModuleType("spacy")
    fake.__spec__ = importlib.machinery.ModuleSpec("spacy", None)
    fake.pipelines = {}

    class Doc(list):
        def __init__(self, vocab, words):
            assert vocab == "the pipeline's vocabulary" and isinstance(words, list)
            super().__init__(SimpleNamespace(text=word, pos_="") for word in words)

    class Pipeline:
        vocab = "the pipeline's vocabulary"

        def __init__(self, tag_of):
            self.tag_of = tag_of

        def __call__(self, doc):
            for token in doc:
                token.pos_ = self.tag_of(token.text)
            return doc

    def load(name):
        if name not in fake.pipelines:
            raise OSError(f"[E050] Can't find model '{name}'.")
        return Pipeline(fake.pipelines[name])

    fake.load, fake.tokens = load, SimpleNamespace(Doc=Doc)
    monkeypatch.setitem(sys.modules, "spacy", fake)
    return fake


def test_spacy_pipeline_tags_the_given_words(spacy):
    spacy.pipelines["en_own"] = {"I": "PRON", "do": "AUX", "n't": "PART", "see": "VERB", "\ufffd": "SPACE"}.get
    tag = tagger("en_own")
    assert tag(("I", "do", "n't", "see")) == ["PRON", "AUX", "PART", "VERB"]
    # What spaCy takes for blanks is a word to us.
    assert tag(["I", "\ufffd"]) == ["PRON", "X"]


def test_missing_spacy_pipeline_is_an_error(spacy):
    with pytest.raises(TaggerError, match=r"'en_nope'.*python -m spacy download en_nope.*hanta and textblob") as error:
        tagger("en_nope")
    assert isinstance(error.value.__cause__, OSError)


def test_spacy_pipeline_without_a_tagger_is_an_error(spacy):
    spacy.pipelines["en_blank"] = lambda word: ""
    spacy.pipelines["en_half"] = {"I": "PRON", "see": ""}.get
    for name in spacy.pipelines:
        with pytest.raises(TaggerError, match=f"tagger = '{name}': this spaCy pipeline sets no part of speech"):
            tagger(name)(["I", "see"])


@pytest.mark.parametrize("name", ["hanta", "textblob"])
def test_numerals_have_a_digit_or_are_number_words(name):
    if name == "textblob":
        pytest.importorskip("textblob")
    tag = tagger(name)
    words = [
        "the",
        "sys",
        "module",
        "prints",
        "argv",
        ",",
        "forty-two",
        "files",
        "and",
        "3",
        "or",
        "1,000",
        "dozen",
        "names",
    ]
    numerals = [word for word, each in zip(words, tag(words), strict=True) if each == "NUM"]
    assert {"forty-two", "3", "1,000"} <= set(numerals) <= {"forty-two", "3", "1,000", "dozen"}


def test_incomplete_character_is_not_a_symbol():
    assert tagger("hanta")(["caf\ufffd", "\ufffd", "+"]) == ["X", "X", "SYM"]
