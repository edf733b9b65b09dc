"""Datasets of a hub. Tables in memory replace the hub, so no test needs a connection."""

import re
from types import SimpleNamespace

import cases
import numpy as np
import pytest
from datasets import Dataset

from longrecipe import settings
from longrecipe.data import hubtext
from longrecipe.data.hubtext import PRESETS, HubText, check_hub_text, is_hub_text, load_hub_text
from longrecipe.data.sentences import sentence_ends, sentence_lengths
from longrecipe.models.loading import load_tokenizer
from longrecipe.recipe.run_text import load_text
from longrecipe.system.paths import mini_model_dir

LATEST = "1" * 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def hub(monkeypatch):
    """Datasets by id, and the requests for rows that were made. The latest commit of each is LATEST."""
    datasets, asked = {}, []

    def info(name, revision, timeout):
        if name not in datasets:
            raise ConnectionError(f"Couldn't reach {name!r} on the Hub\nand more")
        return SimpleNamespace(sha=revision or LATEST)

    def load(name, revision, split, streaming):
        asked.append((name, revision, split, streaming))
        return Dataset.from_list(datasets[name]).to_iterable_dataset()

    monkeypatch.setattr(hubtext, "load_dataset", load)
    monkeypatch.setattr(hubtext, "HfApi", lambda: SimpleNamespace(dataset_info=info))
    return datasets, asked


def text_of(tokenizer, ids):
    return tokenizer.decode(np.asarray(ids, dtype=np.int64))


def test_rows_of_text_are_streamed_once_into_a_corpus(hub, tokenizer):
    datasets, asked = hub
    datasets["someone/texts"] = [{"text": f"The text {i}."} for i in range(40)]
    found = load_hub_text("someone/texts", tokenizer, held_out_every=20)
    assert text_of(tokenizer, found.held_out).count("The text") == 2
    assert text_of(tokenizer, found.train).count("The text") == 38
    assert load_hub_text("someone/texts", tokenizer).sha256 == found.sha256
    assert asked == [("someone/texts", LATEST, "train", True)]
    assert found.hub == load_hub_text("someone/texts", tokenizer).hub == f"someone/texts@{LATEST}"


def test_revision_of_a_dataset_is_read_and_kept_apart_from_others(hub, tokenizer, caplog):
    datasets, asked = hub
    caplog.set_level("INFO")
    datasets["someone/texts"] = [{"text": f"The text {i}."} for i in range(9)]
    datasets[PRESETS["magicoder"].id] = [{"problem": f"Sort {i}.", "solution": "sorted(it)"} for i in range(3)]
    old, latest = "0" * 40, load_hub_text("someone/texts", tokenizer)
    found = load_hub_text(f"someone/texts@{old}", tokenizer)
    assert (found.hub, latest.hub) == (f"someone/texts@{old}", f"someone/texts@{LATEST}")
    assert f"from someone/texts@{old}" in caplog.text
    assert load_hub_text("magicoder@v1", tokenizer).hub == f"{PRESETS['magicoder'].id}@v1"
    assert [revision for _, revision, *_ in asked] == [LATEST, old, "v1"]
    with pytest.raises(FileNotFoundError, match="no dataset of a hub with this name and revision v2"):
        check_hub_text("no/such@v2")


def test_instructions_and_answers_are_documents(hub, tokenizer):
    datasets, _ = hub
    datasets[PRESETS["magicoder"].id] = [{"problem": f"Sort {i}.", "solution": "sorted(it)"} for i in range(3)]
    found = load_hub_text("magicoder", tokenizer)
    assert "Sort 2.\nsorted(it)\n\n" in text_of(tokenizer, found.train)


def test_token_ids_of_another_tokenizer_are_decoded_and_cut_at_its_special_tokens(hub, tokenizer, monkeypatch):
    datasets, _ = hub
    # The tokenizer of a mini Llama made them; its special token is id 0.
    before = mini_model_dir("llama3")
    ids = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
    rows = [{"input_ids": [0, *ids(f"One {i}."), 0, 0, *ids(f"Two {i}. It ends.")], "labels": [1]} for i in range(4)]
    datasets["someone/ids"] = rows
    monkeypatch.setitem(PRESETS, "own", HubText("someone/ids", tokenizer=str(before)))
    qwen2 = load_tokenizer("qwen2")
    found = load_hub_text("own", qwen2, held_out_every=8)
    held, train = text_of(qwen2, found.held_out), text_of(qwen2, found.train)
    assert re.fullmatch(r"One \d.\n\n", held) and "labels" not in train
    texts = [text for i in range(4) for text in (f"One {i}.\n\n", f"Two {i}. It ends.\n\n") if text != held]
    assert train == "".join(texts)
    # Sentences end at the boundary, so that no segment spans two documents: all seven begin one.
    read = np.asarray(found.train, dtype=np.int64)
    lengths = sentence_lengths(read, sentence_ends(qwen2))
    starts = [text_of(qwen2, read[start : start + 2]) for start in np.cumsum(lengths) - lengths]
    assert sum(start.startswith(("On", "Tw")) for start in starts) == 7


def test_reading_stops_at_most_tokens(hub, tokenizer):
    datasets, _ = hub
    datasets["someone/texts"] = [{"text": f"The text {i}."} for i in range(1000)]
    found = load_hub_text("someone/texts", tokenizer, most_tokens=200)
    assert 200 <= len(found.train) + len(found.held_out) < 2000


def test_connection_that_breaks_off_is_an_error_and_leaves_no_files(monkeypatch, tokenizer, tmp_path):
    def load(name, revision, split, streaming):
        yield {"text": "One."}
        yield {"text": "Two."}
        raise TimeoutError

    monkeypatch.setattr(hubtext, "load_dataset", load)
    monkeypatch.setattr(hubtext, "_commit", lambda hub: LATEST)
    with pytest.raises(ConnectionError, match=r"'a/b': the connection broke off after 2 rows \(TimeoutError\)"):
        load_hub_text("a/b", tokenizer)
    assert not list((tmp_path / "cache").glob("text/*"))


def test_unknown_dataset_error_gives_the_reason(hub, tokenizer, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"text = 'no/such': .* \(Couldn't reach 'no/such' on the Hub\): check"):
        load_hub_text("no/such", tokenizer)
    assert not list((tmp_path / "cache").glob("text/*"))


@pytest.mark.parametrize(
    ("name", "is_hub"),
    [
        ("slimpajama", True),
        ("slimpajama@main", True),
        ("a/b", True),
        ("a/b@0f3c", True),
        ("a/b@", False),
        ("a/b/c", False),
        ("/a/b", False),
        ("texts", False),
    ],
)
def test_names_of_presets_and_with_one_slash_are_hub_ids(name, is_hub):
    assert is_hub_text(name) == is_hub


def test_run_prefers_a_folder_to_a_dataset_of_the_same_name(hub, tokenizer, tmp_path, monkeypatch):
    datasets, asked = hub
    datasets["own/long"] = [{"text": f"From the hub {i}."} for i in range(30)]
    p = settings.load("smollm2", "small", text="own/long", text_tokens=50)
    monkeypatch.chdir(tmp_path)
    found = load_text(p, tokenizer)
    assert "From the hub" in text_of(tokenizer, found.long.train) and len(asked) == 1
    assert found.general is found.long
    (tmp_path / "own" / "long").mkdir(parents=True)
    for i in range(3):
        (tmp_path / "own" / "long" / f"{i}.txt").write_text(f"From a file {i}.")
    found = load_text(p, tokenizer)
    assert "From a file" in text_of(tokenizer, found.long.train) and len(asked) == 1


def test_rows_of_a_hub_are_read_like_rows_of_files(hub, tokenizer):
    datasets, _ = hub
    datasets["own/alpaca"] = [{"instruction": f"Ask {i}.", "input": "It.", "output": "Yes."} for i in range(9)]
    assert "Ask 7.\nIt.\nYes.\n\n" in text_of(tokenizer, load_hub_text("own/alpaca", tokenizer).train)
    datasets["own/chat"] = [{"messages": cases.turns(f"Ask {i}.", "Yes."), "id": i} for i in range(9)]
    chat = cases.byte_level()
    assert "<|im_start|>user\nAsk 7.<|im_end|>\n" in text_of(chat, load_hub_text("own/chat", chat).train)
    datasets["own/body"] = [{"body": f"Body {i}.", "tags": ["x"]} for i in range(9)]
    assert "Body 7." in text_of(tokenizer, load_hub_text("own/body", tokenizer, text_column="body").train)
    for column, message in {
        None: "own/body has the columns body, tags: a document is read from text;",
        "tags": r"own/body, row 1: column 'tags' is a list \(\['x'\]\), not text",
        "no": "text_column = 'no': own/body has no such column; there are body, tags",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_hub_text("own/body", tokenizer, text_column=column)
