"""The text of a run: its sources, the checks before training, and how far its samples reach."""

import logging

import cases
import numpy as np
import pytest

from longrecipe import settings
from longrecipe.data.corpus import Corpus
from longrecipe.data.encoding import encode
from longrecipe.data.english import english_texts
from longrecipe.positions import find
from longrecipe.recipe.draws import shown_samples
from longrecipe.recipe.run_text import RunText, check_text, load_text
from longrecipe.recipe.text_checks import check_reach

QUICK = {"window": 512, "target_length": 2048, "ratio": 0.25, "probe_window": 1024, "probe_length": 256}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    return cases.byte_level()


@pytest.fixture
def run_of(tmp_path, tokenizer):
    """A function from a kind of text, and changed settings, to a run's settings and its text."""

    def make(kind, **changes):
        cases.write(tmp_path / kind, cases.TEXTS[kind]())
        p = settings.load("smollm2", "small", text=kind, **QUICK | changes)
        return p, load_text(p, tokenizer)

    return make


def jumps(p, text, count=40):
    """The number of segments in a sample, and of jumps in its positions, as means over samples."""
    rng, segments, skips = np.random.default_rng(0), [], []
    for sample in shown_samples(p, text, count):
        row = {"segment_lengths": sample.segment_lengths, "segment_starts": sample.segment_starts}
        positions = find(p.method).draw(row, p.target_length, rng)
        segments.append(len(sample.segment_lengths))
        skips.append((np.diff(positions) > 1).sum())
    return np.mean(segments), np.mean(skips)


def cut_to(text, n_tokens):
    """A run's text with its first n_tokens."""
    long = Corpus(text.long.train[:n_tokens], text.long.held_out, text.long.sha256)
    return RunText(long, long, None, text.ends)


@pytest.mark.parametrize("language", ["chinese", "japanese"])
def test_chinese_and_japanese_samples_jump_as_often_as_english_ones(language, run_of):
    found = [run_of(f"translated_{name}") for name in ("english", language)]
    n_tokens = min(len(text.long.train) for _, text in found)
    english, other = (jumps(p, cut_to(text, n_tokens)) for p, text in found)
    assert min(english) > 5
    for one, of_english in zip(other, english, strict=True):
        assert 0.5 < one / of_english < 2


@pytest.mark.parametrize("language", ["chinese", "japanese"])
def test_texts_of_equal_bytes_have_as_many_segments(language, tmp_path):
    # Each byte is a token, because other tokenizers may have one token for a whole sentence of these texts.
    tokenizer, found = cases.byt5(), []
    for kind in ("english", language):
        cases.write(tmp_path / kind, cases.TEXTS[kind]())
        p = settings.load("smollm2", "small", text=kind, **QUICK)
        found.append(jumps(p, load_text(p, tokenizer)))
    english, other = found
    for one, of_english in zip(other, english, strict=True):
        assert 0.5 < one / of_english < 2


@pytest.mark.parametrize("kind", ["no_punctuation", "thai"])
@pytest.mark.parametrize("method", ["longrecipe", "stratified", "source"])
def test_text_without_sentence_ends_is_an_error_before_training(kind, method, run_of):
    message = (
        rf"text = '{kind}': 1[56] of 16 samples of 512 tokens are a single segment without a sentence end or newline, "
        r"at positions 0 to 511 of 2,048 \(median number of segments: 1\)\. .* split long lines, or set `method: pose`"
    )
    with pytest.raises(ValueError, match=message):
        check_reach(*run_of(kind, method=method))


@pytest.mark.parametrize("method", ["pose", "rpes", "flt", "none", "cream", "endprompt"])
def test_methods_that_move_no_sentences_accept_any_text(method, run_of):
    check_reach(*run_of("no_punctuation", method=method))


@pytest.mark.parametrize("kind", ["english", "chinese", "japanese", "no_punctuation_lines", "alpaca", "messages"])
def test_text_with_sentence_ends_gives_no_warning(kind, run_of, caplog):
    with caplog.at_level(logging.WARNING, logger="longrecipe"):
        check_reach(*run_of(kind, target_length=1024, ratio=0.5))
    assert not caplog.messages


def test_check_of_the_mini_models_text_passes_and_changes_no_draw():
    from longrecipe.models.loading import load_tokenizer

    p = settings.load("llama3")
    text = load_text(p, load_tokenizer("llama3"))
    before = [sample.ids for sample in shown_samples(p, text, 2)]
    check_reach(p, text)
    for one, other in zip(before, shown_samples(p, text, 2), strict=True):
        np.testing.assert_array_equal(one, other.ids)


def test_samples_without_a_jump_are_reported_in_a_warning(run_of, tmp_path, tokenizer, caplog):
    long, short = "river town boat " * 800, "It is a boat. " * 1600
    cases.write(tmp_path / "mixed", {f"{i}.txt": f"{i} " + (long if i % 4 == 0 else short) for i in range(12)})
    p = settings.load("smollm2", "small", text="mixed", **QUICK)
    with caplog.at_level(logging.WARNING, logger="longrecipe"):
        check_reach(p, load_text(p, tokenizer))
    assert "samples of 512 tokens are a single segment" in caplog.text and "train no long positions" in caplog.text


def test_check_text_reads_the_text_and_the_text_for_replay(tmp_path, tokenizer):
    cases.write(tmp_path / "good", cases.books())
    cases.write(tmp_path / "bad", cases.TEXTS["latin1"]())
    load = lambda **names: settings.load("smollm2", "small", **QUICK | names)  # noqa: E731
    check_text(load(text="good"), tokenizer)
    check_text(load(), tokenizer)
    for names in ({"text": "bad"}, {"text": "good", "replay_text": "bad"}):
        with pytest.raises(ValueError, match=rf"{tmp_path}/bad/l.txt is not UTF-8"):
            check_text(load(**names), tokenizer)
    # A name with the form of a hub id is not looked up, but a folder with this name is read.
    check_text(load(text="some/one"), tokenizer)
    cases.write(tmp_path / "some" / "one", cases.TEXTS["lfs_text"]())
    with pytest.raises(ValueError, match="Git LFS pointer"):
        check_text(load(text="some/one"), tokenizer)
    with pytest.raises(FileNotFoundError, match=f"text = '{tmp_path}/no/such/folder': there is no such"):
        check_text(load(text="no/such/folder"), tokenizer)


def test_text_column_is_required_for_the_text_and_optional_for_replay(tmp_path, tokenizer):
    cases.write(tmp_path / "own", {"a.jsonl": cases.lines([{"body": f"Body {i}."} for i in range(40)])})
    cases.write(tmp_path / "replay", cases.TEXTS["alpaca"]())
    p = settings.load("smollm2", "small", text="own", replay_text="replay", text_column="body", **QUICK)
    check_text(p, tokenizer)
    found = load_text(p, tokenizer)
    assert "Body 7." in tokenizer.decode(found.long.train.astype(np.int64))
    assert "Summarise 7" in tokenizer.decode(found.general.train.astype(np.int64))
    wrong = settings.changed(p, text_column="page")
    for read in (check_text, load_text):
        with pytest.raises(ValueError, match=r"text_column = 'page': .*own/a.jsonl has no such column; there are body"):
            read(wrong, tokenizer)


@pytest.mark.slow
def test_embedded_english_is_encoded_without_special_tokens():
    from longrecipe.models.loading import load_tokenizer

    mini = load_tokenizer("llama3")
    for planted in (True, False):
        text = "\n\n".join(english_texts(planted))
        plain = mini(text, add_special_tokens=False, verbose=False)["input_ids"]
        assert encode(mini, [text]) == [plain]
