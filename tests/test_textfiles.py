"""Text of one's own: every kind of file, to disk once, whatever its size."""

import json

import numpy as np
import pandas as pd
import pytest

from longrecipe import textfiles
from longrecipe.models import load_tokenizer
from longrecipe.textfiles import files_of, load_files


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("llama3")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    """Seven documents in files of every kind; one is there twice, one is empty."""
    path = tmp_path / "texts"
    (path / "deep").mkdir(parents=True)
    (path / "a.txt").write_text("The first text.\nIt has two lines.")
    (path / "deep" / "b.md").write_text("# A head\n\nThe second text.")
    rows = [{"text": "The third text.", "source": "x"}, {"text": "  "}, {"text": "The first text.\nIt has two lines."}]
    (path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"instruction": ["Add 2 and 3."], "output": ["It is 5."]}).to_parquet(path / "d.parquet")
    (path / "e.jsonl").write_text(json.dumps({"problem": "Sort it.", "solution": "sorted(it)"}))
    (path / "notes.csv").write_text("not,read")
    return path


def words(tokenizer, ids):
    return tokenizer.decode(np.asarray(ids, dtype=np.int64))


def test_every_kind_of_file_is_read_and_copies_are_dropped(folder, tokenizer):
    found = load_files(folder, tokenizer, held_out_every=3)
    # By path: documents 0 and 3 are held out.
    head = "# A head\n\nThe second text.\n\n"
    assert words(tokenizer, found.held_out) == "The first text.\nIt has two lines.\n\n" + head
    held, train = words(tokenizer, found.held_out), words(tokenizer, found.train)
    for text in ("The third text.\n\n", "Add 2 and 3.\nIt is 5.\n\n", "Sort it.\nsorted(it)\n\n"):
        assert train.count(text) == 1 and text not in held
    assert "not,read" not in train + held and found.train.dtype == np.uint32


def test_text_is_tokenised_once_and_again_when_a_file_changes(folder, tokenizer, monkeypatch):
    first = load_files(folder, tokenizer)
    calls, tokenise = [], textfiles._tokenise
    monkeypatch.setattr(textfiles, "_tokenise", lambda *given: calls.append(given) or tokenise(*given))
    again = load_files(folder, tokenizer)
    assert calls == [] and again.sha256 == first.sha256
    np.testing.assert_array_equal(again.train, first.train)
    (folder / "a.txt").write_text("The first text, longer than before.")
    other = load_files(folder, tokenizer)
    assert len(calls) == 1 and other.sha256 != first.sha256
    assert "longer than before" in words(tokenizer, other.held_out)


def test_a_cut_off_tokenisation_leaves_nothing_that_is_taken_for_whole(folder, tokenizer, monkeypatch):
    whole = load_files(folder, tokenizer).train.copy()
    made = folder.parent / "cache" / "text"
    (only,) = made.iterdir()
    only.rename(made / (only.name + ".tmp"))
    (made / (only.name + ".tmp") / "train.bin").write_bytes(b"half")
    np.testing.assert_array_equal(load_files(folder, tokenizer).train, whole)


def test_more_documents_than_are_tokenised_at_once(tmp_path, tokenizer):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"Text {i}."}) for i in range(150)))
    found = load_files(path, tokenizer, held_out_every=10)
    assert words(tokenizer, found.held_out) == "".join(f"Text {i}.\n\n" for i in range(0, 150, 10))
    assert words(tokenizer, found.train) == "".join(f"Text {i}.\n\n" for i in range(150) if i % 10)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: p / "none", FileNotFoundError, "there is no such file or folder"),
        (lambda p: p, FileNotFoundError, r"holds no file of text \(.txt, .md, .jsonl, .parquet\)"),
        (
            lambda p: (p / "a.pdf").write_text("x") and p / "a.pdf",
            ValueError,
            "files of text are .txt, .md, .jsonl, .parquet",
        ),
        (
            lambda p: (p / "a.jsonl").write_text('{"body": "x"}') and p / "a.jsonl",
            ValueError,
            "columns body: a document",
        ),
        (lambda p: (p / "a.txt").write_text("one") and p / "a.txt", ValueError, "1 documents; .* at least 2"),
        (lambda p: [(p / "b.txt").write_text("one"), (p / "a.jsonl").touch()] and p, ValueError, "a.jsonl is empty"),
        (
            lambda p: (p / "a.jsonl").write_text('{"text": "x"\n') and p,
            ValueError,
            r"a.jsonl cannot be read as .jsonl \(.*\): mend it",
        ),
        (
            lambda p: (p / "a.parquet").write_text("no parquet") and p,
            ValueError,
            r"a.parquet cannot be read as .parquet \(.*\): mend it",
        ),
    ],
    ids=["missing", "empty", "kind", "column", "few", "empty file", "json", "parquet"],
)
def test_what_cannot_be_read_is_named(make, error, message, tmp_path, tokenizer):
    own = tmp_path / "own"
    own.mkdir()
    with pytest.raises(error, match=message):
        load_files(make(own), tokenizer)
    assert not list((tmp_path / "cache").glob("text/*"))


def test_too_few_are_held_out(folder, tokenizer):
    with pytest.raises(ValueError, match="held_out_every = 1: at least 2"):
        load_files(folder, tokenizer, held_out_every=1)
    assert [path.name for path in files_of(folder)] == ["a.txt", "c.jsonl", "d.parquet", "b.md", "e.jsonl"]


def test_reading_stops_behind_the_document_that_reaches_the_tokens_asked_for(tmp_path, tokenizer):
    path = tmp_path / "many.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"Text {i}."}) for i in range(300)))
    whole, few = load_files(path, tokenizer), load_files(path, tokenizer, most_tokens=100)
    read = len(few.train) + len(few.held_out)
    # Documents are tokenised 64 at a time, and those of the last time stay.
    assert 100 <= read < len(whole.train) / 3
    np.testing.assert_array_equal(few.train, whole.train[: len(few.train)])
