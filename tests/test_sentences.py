"""Sentence splitting in all scripts, on the tokens of all kinds of tokenizers."""

import functools

import cases
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from longrecipe.data.sentences import SentenceEnds, sentence_ends, sentence_lengths, token_strings

N_IDS, END = 12, 9
ENDS = SentenceEnds(np.arange(N_IDS) == END)
texts_of_ids = st.lists(st.integers(0, N_IDS - 1), min_size=1, max_size=80).map(np.array)


def segments(ids, lengths):
    return np.split(ids, np.cumsum(lengths)[:-1])


# sentences


def test_example_in_the_docstring_of_sentence_lengths():
    assert sentence_lengths(np.array([1, 2, 9, 3, 4]), ENDS).tolist() == [3, 2]


@pytest.mark.parametrize(
    ("ids", "lengths"), [([9], [1]), ([1], [1]), ([9, 9], [1, 1]), ([1, 9], [2]), ([9, 1, 9, 9], [1, 2, 1])]
)
def test_sentence_lengths_at_the_edges(ids, lengths):
    assert sentence_lengths(np.array(ids), ENDS).tolist() == lengths


@given(ids=texts_of_ids)
def test_sentences_end_only_at_end_tokens(ids):
    lengths = sentence_lengths(ids, ENDS)
    assert lengths.sum() == len(ids) and (lengths > 0).all()
    parts = segments(ids, lengths)
    assert all(END not in part[:-1] for part in parts)
    assert all(part[-1] == END for part in parts[:-1])


def test_sentence_ends_are_found_on_decoded_text(tokenizer):
    strings, ends = token_strings(tokenizer), sentence_ends(tokenizer)
    assert len(strings) == len(ends.by_id) == len(tokenizer) and ends.by_id.dtype == bool
    for text in ("Is it so?", "It is!", "It is.", "A line\n"):
        *inner, last = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert ends(np.array([*inner, last])).tolist() == [False] * len(inner) + [True]
    ids = np.array(tokenizer("One here. Two there! Three? Four", add_special_tokens=False)["input_ids"])
    parts = [tokenizer.decode(part) for part in segments(ids, sentence_lengths(ids, ends))]
    assert parts == ["One here.", " Two there!", " Three?", " Four"]


def small_tokenizer(words, decoder, pre_tokenizer=None):
    """A tokenizer with the given words as tokens."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.decoder = decoder
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend)


ENDINGS = [".", "!", "?", " .", "?!", "...", "etc. ", ".\t", "\n", ":\n", "\n\n "]
ENDINGS += ['."', ".)", "!'", ".\u201d", "?\u2019)", ".]}"]
INSIDE = ["a", ".5", ".com", "e.g", ".a", ",", ":", ")", '"', "\t", " ", ". a", "?x", ".,"]


def test_points_end_sentences_only_at_the_end_of_a_token():
    tokenizer = small_tokenizer([*INSIDE, *ENDINGS], decoders.Fuse())
    assert sentence_ends(tokenizer).by_id.tolist() == [False] * len(INSIDE) + [True] * len(ENDINGS)


# the text of tokens


@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=126, include_characters="\n"), max_size=80))
def test_token_strings_join_to_the_text(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    strings = token_strings(tokenizer)
    assert "".join(strings[i] for i in ids) == tokenizer.decode(ids) == text


def test_part_of_a_character_is_a_replacement_character(tokenizer):
    strings = token_strings(tokenizer)
    parts = tokenizer("\u00e9", add_special_tokens=False)["input_ids"]
    assert [strings[i] for i in parts] == ["\ufffd", "\ufffd"]


def test_token_strings_keep_the_blank_before_a_word():
    words = ["?", "\u2581a", "\u2581the", "ing", "\u2581"]
    pre_tokenizer, decoder = (part.Metaspace(prepend_scheme="always") for part in (pre_tokenizers, decoders))
    tokenizer = small_tokenizer(words, decoder, pre_tokenizer)
    assert tokenizer.decode([2]) == "the"
    assert token_strings(tokenizer) == ["?", " a", " the", "ing", " "]


def test_token_strings_are_computed_once_per_vocabulary(monkeypatch):
    words = ["a", "once", "and", "never", "again"]
    first, same, other = (small_tokenizer(each, decoders.Fuse()) for each in (words, words, [*words[:-1], "otherwise"]))
    calls, decode = [], PreTrainedTokenizerFast.batch_decode

    def counted(self, *args, **options):
        calls.append(self)
        return decode(self, *args, **options)

    monkeypatch.setattr(PreTrainedTokenizerFast, "batch_decode", counted)
    found = token_strings(first)
    assert found == words and calls == [first]
    # Each caller gets its own list.
    found[1] = "changed"
    assert token_strings(first) == token_strings(same) == words and calls == [first]
    assert token_strings(other) == [*words[:-1], "otherwise"] and calls == [first, other]


# sentences in every script


def bpe_of(name):
    """Tokenizers that split characters outside ASCII in different ways."""
    return {
        "byte-level": cases.byte_level,
        "byte-level, no CJK": cases.byte_level_english,
        "byte fallback": cases.byte_fallback,
        "byte fallback, CJK": lambda: cases.byte_fallback(with_letters=True),
        "bytes": cases.byt5,
    }[name]()


KINDS = ["byte-level", "byte-level, no CJK", "byte fallback", "byte fallback, CJK", "bytes"]
# Sentences as a reader would split them. No ASCII point is inside a word.
SCRIPTS = {
    "Chinese": ["今天天气很好。", "我们去公园散步吗？", "当然！", "第3章讲的是长江"],
    "Chinese speech": ["他说：“好。”", "“走吧！”", "她走了。"],
    "Japanese": ["「名前は？」", "『まだ無い。』）", "吾輩は猫である｡", "どこ"],
    "Arabic": ["كيف حالك؟", " أنا بخير."],
    "Urdu": ["میں ٹھیک ہوں۔", " تم کیسے ہو؟"],
    "Hindi": ["यह एक नदी है।", " वह शहर है॥", " हाँ"],
    "Armenian": ["Ես տուն եմ գնում։", " Դու գալիս ես։"],
    "Burmese": ["ကျွန်တော် သွားမယ်။", " သူလာမယ်။"],
    "Ethiopic": ["ሰላም ነው።", " እንዴት ነህ፧", " ደህና"],
    "Khmer": ["ខ្ញុំទៅផ្ទះ។", " បាទ"],
    "Santali": ["ᱚᱞ ᱪᱤᱠᱤ᱾", " ᱦᱮᱸ"],
    "mixed": ["It is far.", " 很远。", "Yes!", " 好吗？", "No"],
    "several terminals": ["真的吗？！", "好……。", "走‼", "嗯"],
    "full width": ["（好。）", "好．＇＂", "完"],
    "line separators": ["one\u2028", "two\u2029", "three\u0085", "four"],
}


def cut(tokenizer, text):
    """The text of each sentence, decoded from its tokens, and all ids."""
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    parts = segments(ids, sentence_lengths(ids, sentence_ends(tokenizer)))
    return [tokenizer.decode(part) for part in parts], ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_sentences_end_correctly_in_all_scripts(kind, script):
    tokenizer, expected = bpe_of(kind), SCRIPTS[script]
    found, _ = cut(tokenizer, "".join(expected))
    # Decoders drop a blank at the start of a text.
    assert [each.strip(" ") for each in found] == [each.strip(" ") for each in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_some_of_the_tokenizers_split_terminals(kind):
    tokenizer = bpe_of(kind)
    ids = tokenizer("好。", add_special_tokens=False)["input_ids"]
    text = [tokenizer.decode([i]) for i in ids]
    assert ("。" in "".join(text)) == (kind in ("byte-level", "byte fallback, CJK"))


def test_a_terminal_inside_a_token_ends_the_sentence_with_that_token():
    tokenizer = small_tokenizer(["好", "。今", "天。」", "」", "x。"], decoders.Fuse())
    ends = sentence_ends(tokenizer)
    assert ends(np.array([0, 1, 0, 2, 3, 0, 4])).tolist() == [False, True, False, False, True, False, True]
    # A closing bracket without a terminal ends no sentence.
    assert ends(np.array([3, 3])).tolist() == [False, False]


def test_english_sentences_end_by_the_ascii_rule(tokenizer, natural_ids):
    ends = sentence_ends(tokenizer)
    assert not all(text.isascii() for text in ends.pieces)
    np.testing.assert_array_equal(ends(natural_ids), ends.by_id[natural_ids])


@pytest.fixture(scope="module")
def natural_ids(tokenizer):
    from longrecipe.data.english import load_english

    return load_english(tokenizer, planted=False).train


TERMINALS, CLOSERS = "。！？؟۔।॥։။።｡．", "」』）”’»\"'＂"
LETTERS = "ab 今天のはनमसلامабé.!?,(「“\n" + TERMINALS + CLOSERS


@functools.cache
def cached(kind):
    return bpe_of(kind)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from(LETTERS), min_size=1, max_size=40))
def test_sentence_ends_on_tokens_match_the_text(kind, text):
    tokenizer = cached(kind)
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    ends = sentence_ends(tokenizer)
    # The places in bytes of each terminal with what belongs to it, by a loop over the letters.
    runs, size, inside = [], 0, False
    for letter in text:
        start, size = size, size + len(letter.encode())
        if inside and letter in TERMINALS + CLOSERS + ".!?":
            runs[-1][1] = size
        else:
            inside = letter in TERMINALS
            runs += [[start, size]] if inside else []
    pieces = [ends.pieces[i] for i in ids]
    # Some tokenizers add a blank before the text.
    extra = len(b"".join(pieces)) - len(text.encode())
    stops = np.cumsum([len(piece) for piece in pieces]) - extra
    starts = np.append(-extra, stops[:-1])
    # The ASCII rule is valid outside of runs, and the token that completes a run ends its sentence.
    expected = ends.by_id[ids].copy()
    for start, stop in runs:
        expected[(starts >= start) & (stops < stop)] = False
        expected[np.flatnonzero(stops >= stop)[0]] = True
    np.testing.assert_array_equal(ends(ids), expected)
