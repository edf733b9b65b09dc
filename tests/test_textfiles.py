"""Your own text: all kinds of files, tokenised once to disk."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import cases
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.data import holdout, textfiles
from longrecipe.data.holdout import held_out_documents
from longrecipe.data.textfiles import load_files
from longrecipe.data.textwalk import files_of
from longrecipe.models.loading import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("llama3")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Seven documents in files of all kinds; one occurs twice, one is empty."""
    path = tmp_path / "texts"
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text("The first text.\nIt has two lines.")
    (path / "deep" / "b.rst").write_text("# A head\n\nThe second text.")
    rows = [{"text": "The third text.", "source": "x"}, {"text": "  "}, {"text": "The first text.\nIt has two lines."}]
    (path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"instruction": ["Add 2 and 3."], "output": ["It is 5."]}).to_parquet(path / "d.parquet")
    (path / "e.jsonl").write_text(json.dumps({"problem": "Sort it.", "solution": "sorted(it)"}))
    (path / "notes.log").write_text("not read")
    return path


def words(tokenizer, ids):
    return tokenizer.decode(np.asarray(ids, dtype=np.int64))


def test_all_kinds_of_files_are_read_and_copies_are_dropped(folder, tokenizer):
    found = load_files(folder, tokenizer, held_out_every=3)
    held, train = words(tokenizer, found.held_out), words(tokenizer, found.train)
    head = "# A head\n\nThe second text.\n\n"
    first = "The first text.\nIt has two lines.\n\n"
    for text in (first, head, "The third text.\n\n", "Add 2 and 3.\nIt is 5.\n\n", "Sort it.\nsorted(it)\n\n"):
        assert (held + train).count(text) == 1
    assert "not read" not in train + held and found.train.dtype == np.uint32


def test_text_is_tokenised_once_and_again_when_a_file_changes(folder, tokenizer, monkeypatch):
    first = load_files(folder, tokenizer)
    calls, write = [], textfiles._write
    monkeypatch.setattr(textfiles, "_write", lambda *given, **options: calls.append(1) or write(*given, **options))
    again = load_files(folder, tokenizer)
    assert calls == [] and again.sha256 == first.sha256
    np.testing.assert_array_equal(again.train, first.train)
    (folder / "a.txt").write_text("The first text, longer than before.")
    other = load_files(folder, tokenizer)
    assert len(calls) == 1 and other.sha256 != first.sha256
    assert "longer than before" in words(tokenizer, np.concatenate([other.train, other.held_out]))


def test_files_of_a_killed_tokenisation_are_removed(folder, tokenizer):
    whole = load_files(folder, tokenizer).train.copy()
    made = folder.parent / "cache" / "text"
    (only,) = made.iterdir()
    only.rename(made / f".{only.name}.{2**22 + 1}-abc.tmp")
    np.testing.assert_array_equal(load_files(folder, tokenizer).train, whole)
    assert list(made.iterdir()) == [only]


READING = """
import sys, time
from pathlib import Path
from longrecipe import models
from longrecipe.data import textfiles
write = textfiles._write

def slow(*given, **options):
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    return write(*given, **options)

textfiles._write = slow
print(len(textfiles.load_files(sys.argv[1], models.load_tokenizer("llama3")).train))
"""


@pytest.mark.slow
def test_second_run_waits_for_the_first_to_read_the_same_text(folder, tokenizer, tmp_path, caplog, monkeypatch):
    at_work, command = (
        tmp_path / "at work",
        [sys.executable, "-c", READING, str(folder), str(tmp_path / "at work"), "2"],
    )
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    while not at_work.exists():
        assert first.poll() is None
        time.sleep(0.05)
    monkeypatch.setattr(textfiles, "_write", lambda *given, **options: pytest.fail("read twice"))
    with caplog.at_level("WARNING"):
        found = load_files(folder, tokenizer)
    assert f"process {first.pid} reads text = {str(folder)!r}" in caplog.text and "waiting" in caplog.text
    assert first.wait(1800) == 0 and int(first.stdout.read()) == len(found.train)


@pytest.mark.parametrize("fault", ["cut", "gone"])
@pytest.mark.parametrize("name", ["train.bin", "held_out.bin", "about.json"])
def test_damaged_text_in_the_cache_error_names_the_folder_to_delete(name, fault, folder, tokenizer):
    load_files(folder, tokenizer)
    (made,) = (folder.parent / "cache" / "text").iterdir()
    content = (made / name).read_bytes()
    (made / name).unlink()
    if fault == "cut":
        (made / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"{name}(.|\n)*delete {made}, and the same command reads the text again"):
        load_files(folder, tokenizer)


def test_documents_keep_their_order_and_are_held_out_evenly(tmp_path, tokenizer):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"Text {i:03d}."}) for i in range(150)))
    found = load_files(path, tokenizer, held_out_every=10)
    held, train = (words(tokenizer, ids).strip().split("\n\n") for ids in (found.held_out, found.train))
    assert sorted(held + train) == [f"Text {i:03d}." for i in range(150)]
    # In the order of the file, from the whole file.
    assert held == sorted(held) and train == sorted(train) and 13 <= len(held) <= 15
    assert held[0] < "Text 040." and held[-1] > "Text 110."


def test_held_out_share_is_counted_in_tokens(tmp_path, tokenizer):
    path = tmp_path / "books"
    path.mkdir()
    (path / "a.txt").write_text("".join(cases.PARAGRAPHS) * 3)
    (path / "b.txt").write_text("".join(cases.PARAGRAPHS[:200]))
    found = load_files(path, tokenizer)
    assert len(found.train) > 5 * len(found.held_out) > 0
    assert "This is paragraph 399 " in words(tokenizer, found.train)
    assert "This is paragraph 399 " not in words(tokenizer, found.held_out)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p / "none", FileNotFoundError, "there is no such file or folder; choose one with text"),
        (lambda p: p, FileNotFoundError, r"has no file of text \(.txt, .md, .rst, .jsonl, .ndjson, .json, .csv"),
        (
            lambda p: (p / "a.pdf").write_text("x") and p / "a.pdf",
            ValueError,
            r"cannot read '.pdf' as text; allowed are .txt, .md, .rst, .jsonl",
        ),
        (
            lambda p: (p / "a.jsonl").write_text('{"body": "x"}') and p / "a.jsonl",
            ValueError,
            "columns body: a document",
        ),
        (lambda p: (p / "a.txt").write_text("one") and p / "a.txt", ValueError, "1 document; .* at least 2"),
        (lambda p: [(p / "a.jsonl").touch()] and p / "a.jsonl", ValueError, r"a.jsonl': the file is empty"),
        (
            lambda p: (p / "a.jsonl").write_text('{"text": "x"\n') and p,
            ValueError,
            r"a.jsonl cannot be read as .jsonl \(.*\): repair or remove it",
        ),
        (
            lambda p: (p / "a.parquet").write_text("no parquet") and p,
            ValueError,
            r"a.parquet cannot be read as .parquet \(.*\): repair or remove it",
        ),
    ],
    ids=["missing", "empty", "kind", "column", "few", "empty file", "json", "parquet"],
)
def test_error_names_the_file_that_cannot_be_read(make, error, message, tmp_path, tokenizer):
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(error, match=message):
        load_files(make(own), tokenizer)
    assert not list((tmp_path / "cache").glob("text/*"))


def test_held_out_every_below_2_is_an_error(folder, tokenizer):
    with pytest.raises(ValueError, match="held_out_every = 1: must be at least 2"):
        load_files(folder, tokenizer, held_out_every=1)


def test_files_are_sorted_and_other_kinds_are_skipped(folder):
    files, report = files_of(folder)
    assert [path.name for path in files] == ["a.txt", "c.jsonl", "d.parquet", "b.rst", "e.jsonl"]
    assert report.skipped() == "1 of other kinds (.log)"


def test_reading_stops_after_most_tokens(tmp_path, tokenizer, caplog):
    caplog.set_level("INFO", logger="longrecipe")
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"Text {i}."}) for i in range(300)))
    whole, few = load_files(path, tokenizer), load_files(path, tokenizer, most_tokens=100)
    assert "stopped at text_tokens = 100; skipped: nothing" in caplog.text
    read = len(few.train) + len(few.held_out)
    # Documents are tokenised 64 at a time, and all of the last 64 are kept.
    assert 100 <= read < len(whole.train) / 3
    both = lambda found: words(tokenizer, np.concatenate([found.train, found.held_out])).strip().split("\n\n")  # noqa: E731
    assert sorted(both(few)) == sorted(f"Text {i}." for i in range(64)) and len(both(whole)) == 300


def test_relative_path_is_relative_to_the_working_directory(folder, tokenizer, monkeypatch):
    whole = load_files(folder, tokenizer)
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for name in ("texts", "./texts/", "~/texts", "texts/../texts"):
        assert load_files(name, tokenizer).sha256 == whole.sha256
    with pytest.raises(FileNotFoundError, match=re.escape(f"text = '{folder.parent}/nowhere'")):
        load_files("nowhere", tokenizer)


@given(lengths=st.lists(st.integers(1, 50), min_size=2, max_size=60).map(np.array), every=st.integers(2, 30))
def test_held_out_documents_have_at_most_half_of_the_tokens(lengths, every):
    is_held = held_out_documents(lengths, every)
    held, total = lengths[is_held].sum(), lengths.sum()
    np.testing.assert_array_equal(is_held, held_out_documents(lengths, every))
    most, shortest_left = total // every, lengths[~is_held].min()
    assert 0 < held <= total - held
    if held <= most:
        # All others are too long to fit. Less than half of the wanted tokens means that one more would be too much.
        assert shortest_left > most - held
        assert 2 * held >= most or 2 * (held + shortest_left) > total
    else:
        # The shortest document that does not fit is added if the others have less than half of the wanted tokens.
        added = max(size for size in lengths[is_held] if size <= shortest_left)
        assert held - added <= most and (held == added or 2 * (held - added) < most)


def test_books_are_held_out_next_to_short_notes():
    assert held_out_documents(np.array([5000, 5100, 30, 4900, 20, 5200]), 20).tolist() == [0, 0, 1, 1, 1, 0]
    assert held_out_documents(np.array([90, 1, 80, 70]), 20).tolist() == [0, 1, 0, 1]
    assert held_out_documents(np.array([60, 10, 15, 15]), 10).tolist() == [0, 1, 0, 0]
    assert held_out_documents(np.array([100_000, 30, 20]), 20).tolist() == [0, 1, 1], "books are not split"


@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=30).map(np.array), seed=st.integers(0, 99))
def test_split_tokens_keeps_all_tokens_in_order(lengths, seed):
    ids = np.arange(lengths.sum(), dtype=np.uint32)
    is_held = np.random.default_rng(seed).random(len(lengths)) < 0.4
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(holdout, "_AT_ONCE", 3):
        tokens, train, held = (Path(folder) / name for name in ("tokens", "train", "held"))
        ids.tofile(tokens)
        holdout.split_tokens(tokens, train, held, lengths=lengths, is_held=is_held, dtype=ids.dtype)
        mask = np.repeat(is_held, lengths)
        np.testing.assert_array_equal(np.fromfile(train, dtype=ids.dtype), ids[~mask])
        np.testing.assert_array_equal(np.fromfile(held, dtype=ids.dtype), ids[mask])
        assert not tokens.exists()
