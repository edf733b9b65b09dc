"""All kinds of user text (cases.py): each is read correctly, or an error before training says how to fix it."""

import logging
import os

import cases
import numpy as np
import pytest

from longrecipe.data import textwalk
from longrecipe.data.encoding import encode
from longrecipe.data.textcheck import check_files
from longrecipe.data.textfiles import load_files

# Kind: the number of documents, some of their text, and what is logged as skipped.
READ = {
    "english": (4, ["This is paragraph 0 about", "This is paragraph 359 about"], "nothing"),
    "chinese": (5, ["第0章讲的是长江的故事"], "nothing"),
    "japanese": (5, ["第0章。吾輩は猫である。"], "nothing"),
    "translated_english": (3, ["Why did nobody build a bridge"], "nothing"),
    "translated_chinese": (3, ["为什么战争以前没有人在这里修一座桥呢？"], "nothing"),
    "translated_japanese": (3, ["なぜ戦争の前に誰もここに橋を架けなかったのだろうか？"], "nothing"),
    "thai": (4, ["แม่น้ำสายนี้ไหลผ่านเมืองที่0 "], "nothing"),
    "no_punctuation": (2, ["river town boat river"], "nothing"),
    "no_punctuation_lines": (3, ["boat 2\nriver"], "nothing"),
    "brackets": (2, ["bracket file. " * 1, "its neighbour. "], "nothing"),
    "hidden": (4, [], "4 hidden (.git, __MACOSX, .ipynb_checkpoints)"),
    "other_kinds": (4, [], "3 of other kinds (no ending, .pdf, .tar.gz)"),
    "empty_file": (4, [], "3 empty (e.jsonl, e.txt, blank.txt)"),
    "repeated": (4, [], "1 repeated document (copy.txt)"),
    "upper_case": (3, ["Upper one.", "Upper two.", "Upper three."], "nothing"),
    "json_array": (2, ["First row.\n\n", "Second row.\n\n"], "nothing"),
    "json_object": (2, ["One object.\n\n"], "nothing"),
    "json_lines": (3, ["First row.\n\n", "Second row.\n\n", "Third row.\n\n"], "nothing"),
    "csv": (4, ["One, with a comma.\nTwo lines.\n\n", "NA\n\n", "2021-01-01\n\n", "Tabbed row.\n\n"], "nothing"),
    "csv_long_field": (2, ["word " * 60_000], "nothing"),
    "parquet": (2, ["First row.\n\n", "Second row.\n\n"], "nothing"),
    "compressed": (9, ["Zipped one.", "Zipped five.", "Zipped seven.", "Zipped nine."], "nothing"),
    "mixed_types": (3, ["First row.", "Second row.", "Third row."], "nothing"),
    "alpaca": (50, [f"Summarise 7\n{cases.PARAGRAPHS[7]}\nShort.\n\n"], "nothing"),
    "alpaca_without_input": (9, ["Count 7\nShort.\n\n"], "nothing"),
    "dolly": (9, ["Ask 7\nDocument 7\nShort.\n\n"], "nothing"),
    "openorca": (9, ["Be kind.\nAsk 7\nShort.\n\n"], "nothing"),
    "squad": (9, ["Document 7\nWho?\n7\n\n"], "nothing"),
    "messages": (
        50,
        [f"<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n{cases.PARAGRAPHS[7]}<|im_end|>\n"],
        "nothing",
    ),
    "messages_parquet": (9, [f"<|im_start|>assistant\n{cases.PARAGRAPHS[7]}<|im_end|>\n"], "nothing"),
    "sharegpt": (
        9,
        ["system\nBe kind.<|im_end|>\n<|im_start|>user\nAsk 7<|im_end|>\n<|im_start|>assistant\nShort.<|im_end|>\n"],
        "nothing",
    ),
    "prompt_completion": (9, ["user\nAsk 7<|im_end|>\n<|im_start|>assistant\nShort.<|im_end|>\n"], "nothing"),
    "content_parts": (9, ["user\nAsk 7<|im_end|>\n"], "nothing"),
    "tool_calls": (9, ["assistant\n<|im_end|>\n<|im_start|>tool\nIt is 5.<|im_end|>\n"], "nothing"),
    "control_tokens_in_messages": (9, ["user\nSay <|im_end|> 7<|im_end|>\n"], "nothing"),
    "mixed_columns": (3, ["First row.\n\n", "Second\nrow.\n\n", "user\nThird<|im_end|>\n"], "nothing"),
    "empty_text_column": (9, ["Ask 7\nShort.\n\n"], "nothing"),
    "null_rows": (2, ["First row.\n\n", "Second row.\n\n"], "3 empty rows"),
    "content": (9, ["File 7\n\n"], "nothing"),
    "byte_order_mark": (4, ["Marked one.", "Marked two.", "Marked three.", "Marked four."], "nothing"),
    "crlf": (4, ["One.\nTwo.\n", "Three.\nFour.", "Five.\nSix.", "Seven.\nEight."], "nothing"),
    "special_tokens": (5, ["Hello <|im_start|>user and <|endoftext|> in a text about chats. "], "nothing"),
    "lone_surrogate": (2, ["Half \ufffd here.", "Whole \U0001f600 here."], "nothing"),
    "line_separators": (2, ["First\u2028row.", "Second\u0085row."], "nothing"),
}
# Kind: the message, after the folder.
REFUSED = {
    "list_in_text": r"/a.jsonl, line 1: column 'text' is a list \(.*\), not text; .* joining the parts .* text_column",
    "dict_in_text": r"/a.jsonl, line 1: column 'text' is a dict \(.*\), not text",
    "number_in_text": r"/a.jsonl, line 1: column 'text' is an int \(0\), not text",
    "parquet_list": r"/a.parquet, row 1: column 'text' is a list \(.*\), not text",
    "parquet_bytes": r"/a.parquet, row 1: column 'text' is a bytes \(b'one'\), not text",
    "messages_as_string": r"/a.csv, row 1: column 'messages' is a str .*, not a list of messages .* text_column",
    "unknown_role": r"/a.jsonl, line 1, messages: role 'narrator' is unknown; allowed are system,",
    "content_dict": r"/a.jsonl, line 1, messages: the content of a message is a dict",
    "unknown_columns": r"/a.jsonl has the columns body, id: a document is read from text; .* text_column",
    "all_empty": r"/a.jsonl: no row has text \(empty columns: text\); there are text, id",
    "json_list_of_strings": r"/a.json, row 1: a str instead of an object with columns",
    "latin1": r"/l.txt is not UTF-8 text \(byte 3 is 0xe9\): convert it, .* `iconv -f latin1 -t utf-8`",
    "latin1_jsonl": r"/l.jsonl is not UTF-8 text \(line 2, byte 13 is 0xe9\)",
    "utf16": r"/u.txt is not UTF-8 text \(byte 0 is 0xff\): .* `iconv -f utf-16 -t utf-8`",
    "utf16_without_mark": r"/u.txt is not UTF-8 text \(byte 1 is 0x00\): .* `iconv -f utf-16 -t utf-8`",
    "cut_jsonl": r"/a.jsonl cannot be read as .jsonl \(line 401: .*\): repair or remove it",
    "cut_gzip": r"/z.txt.gz cannot be read as .txt.gz \(.*\): repair or remove it",
    "cut_zstd": r"/z.txt.zst cannot be read as .txt.zst \(.*\): repair or remove it",
    "not_gzip": r"/z.txt.gz cannot be read as .txt.gz \(.*\): repair or remove it",
    "cut_parquet": r"/a.parquet cannot be read as .parquet \(.*\): repair or remove it",
    "cut_csv": r"/a.csv cannot be read as .csv \(.*\): repair or remove it",
    "unquoted_comma": r"/a.csv, row 1 has more fields than the first line has columns: put quotes around",
    "lfs_text": r"/p.txt is a Git LFS pointer, .* `git lfs pull`",
    "lfs_parquet": r"/p.parquet is a Git LFS pointer, .* `git lfs pull`",
    "one_document": r"': 1 document; .* at least 2 are needed: split the text",
    "twice_the_same": r"': 1 document; .* at least 2 are needed: split the text",
    "nothing": r"': the folder has no file of text .* Skipped: 1 hidden \(.hidden.txt\), 1 of other kinds \(.pdf\)",
    "only_empty": r"': the folder has no file of text .* Skipped: 2 empty \(a.txt, b.jsonl\)",
    "only_blank": r"': 0 documents; .* at least 2 are needed",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tokenizer():
    return cases.byte_level()


def words(tokenizer, corpus):
    return tokenizer.decode(np.concatenate([corpus.train, corpus.held_out]).astype(np.int64))


def test_every_kind_has_a_result():
    assert set(READ) | set(REFUSED) == set(cases.TEXTS) and not set(READ) & set(REFUSED)


@pytest.mark.parametrize("kind", READ)
def test_texts_are_read_completely(kind, tmp_path, tokenizer, caplog):
    n_documents, texts, skipped = READ[kind]
    folder = cases.write(tmp_path / "text", cases.TEXTS[kind]())
    check_files(folder, tokenizer)
    # The line is the same if the text comes from the cache.
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="longrecipe"):
            found = load_files(folder, tokenizer)
        (line,) = caplog.messages
        assert line.endswith(f"; skipped: {skipped}") and f", {n_documents} documents, " in line
        assert f" {len(found.train) + len(found.held_out):,} tokens (held out {len(found.held_out):,})" in line
    text = words(tokenizer, found)
    assert all(text.count(each) for each in texts)
    assert "SECRET" not in text and "\ufeff" not in text and "\r" not in text
    assert 0 < len(found.held_out) <= len(found.train)
    assert not list((tmp_path / "cache" / "text").glob("*.tmp"))


@pytest.mark.parametrize("kind", REFUSED)
def test_unusable_texts_are_an_error_before_training(kind, tmp_path, tokenizer):
    folder = cases.write(tmp_path / "text", cases.TEXTS[kind]())
    for read in (check_files, load_files):
        with pytest.raises((ValueError, FileNotFoundError), match=f"{folder}{REFUSED[kind]}"):
            read(folder, tokenizer)
    assert not list((tmp_path / "cache").glob("text/*"))


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".csv", ".parquet", ".txt.gz"])
def test_file_names_are_not_read_as_patterns(ending, tmp_path, tokenizer):
    kind = {".jsonl": ".jsonl", ".csv": ".csv", ".parquet": ".parquet"}.get(ending, ".txt")

    def content(i):
        text = f"Text of file {i}."
        made = {".txt": text, ".jsonl": cases.lines([{"text": text}]), ".csv": f"text\n{text}\n"}
        data = cases.parquet(text=[text]) if kind == ".parquet" else made[kind].encode()
        return cases.gzip.compress(data) if ending.endswith(".gz") else data

    files = {name + ending: content(i) for i, name in enumerate(["a1", "ab", *cases.ODD_NAMES])}
    folder = cases.write(tmp_path / "te[x]t *", files)
    check_files(folder, tokenizer)
    text = words(tokenizer, load_files(folder, tokenizer))
    assert sorted(text.strip().split("\n\n")) == sorted(f"Text of file {i}." for i in range(len(files)))
    # A path to this file alone is no pattern, either: one document is an error.
    with pytest.raises(ValueError, match="1 document;"):
        load_files(folder / f"a[1]{ending}", tokenizer)


def test_links_are_followed_once(tmp_path, tokenizer, caplog):
    folder = cases.write_links(tmp_path / "text")
    with caplog.at_level(logging.INFO, logger="longrecipe"):
        text = words(tokenizer, load_files(folder, tokenizer))
    assert text.count("Text of the linked folder. ") == 50
    assert "read 5 files, 5 documents" in caplog.text
    assert "skipped: 2 linked more than once (loop, z.txt), 1 broken link (broken.txt)" in caplog.text


def test_folder_that_is_a_link_or_hidden_is_read(tmp_path, tokenizer):
    cases.write(tmp_path / ".texts", cases.books())
    os.symlink(tmp_path / ".texts", tmp_path / "link")
    for name in (".texts", "link"):
        assert "This is paragraph 0 " in words(tokenizer, load_files(tmp_path / name, tokenizer))


def test_files_that_are_not_regular_are_skipped(tmp_path):
    folder = cases.write(tmp_path / "text", cases.books(2))
    os.mkfifo(folder / "pipe.txt")
    files, report = textwalk.files_of(folder)
    assert [file.name for file in files] == ["book0.txt", "book1.txt"]
    assert report.skipped() == "1 not regular (pipe.txt)"


def test_error_of_a_file_without_permission_names_the_file(tmp_path, tokenizer, monkeypatch):
    folder = cases.write(tmp_path / "text", cases.books(2))
    opened = cases.Path.open

    def refuse(self, *args, **options):
        if self.name == "book1.txt":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **options)

    # Not by chmod, because root can read all files.
    monkeypatch.setattr(cases.Path, "open", refuse)
    for read in (check_files, load_files):
        with pytest.raises(ValueError, match=r"book1.txt cannot be read \(.*Permission denied.*\): change its perm"):
            read(folder, tokenizer)


def test_control_tokens_in_text_are_encoded_as_text(tmp_path, tokenizer):
    folder = cases.write(tmp_path / "text", cases.TEXTS["special_tokens"]())
    found = load_files(folder, tokenizer)
    ids = np.concatenate([found.train, found.held_out])
    assert not np.isin(ids, [0, 1, 2]).any()


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "mini", "byt5"])
def test_control_tokens_in_text_are_text_for_all_tokenizers(kind, request):
    made = {"byte_level": cases.byte_level, "byte_fallback": cases.byte_fallback, "byt5": cases.byt5}
    tokenizer = request.getfixturevalue("llama3_tokenizer") if kind == "mini" else made[kind]()
    text = "In a text: " + " and ".join(tokenizer.all_special_tokens) + "."
    (ids,) = encode(tokenizer, [text])
    control = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    assert not control & set(ids) and tokenizer.decode(ids).strip() == text
    # By default they are control tokens.
    assert control & set(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module")
def llama3_tokenizer():
    from longrecipe.models.loading import load_tokenizer

    return load_tokenizer("llama3")


def test_only_control_tokens_of_the_chat_template_are_control_tokens(tmp_path, tokenizer):
    folder = cases.write(tmp_path / "text", cases.TEXTS["messages"]())
    found = load_files(folder, tokenizer)
    expected = tokenizer.apply_chat_template(
        cases.turns("What is it?", cases.PARAGRAPHS[7]), tokenize=True, return_dict=False
    )
    everything = " ".join(map(str, [*found.train, *found.held_out]))
    assert " ".join(map(str, expected)) in everything and expected.count(1) == expected.count(2) == 2
    folder = cases.write(tmp_path / "control", cases.TEXTS["control_tokens_in_messages"]())
    found = load_files(folder, tokenizer)
    ids = np.concatenate([found.train, found.held_out])
    # Nine conversations of two messages each.
    assert (ids == 1).sum() == (ids == 2).sum() == 18


def test_conversations_need_a_chat_template_that_accepts_them(tmp_path, tokenizer):
    folder = cases.write(tmp_path / "text", cases.TEXTS["messages"]())
    bare = cases.byte_level.__wrapped__()
    for template, message in {
        None: "this is a conversation, but the tokenizer has no chat template: add chat_template.jinja",
        "{{ raise_exception('Only user.') }}": r"the chat template does not accept the messages \(Only user.\)",
        "{{ messages[9].content.x }}": r"the chat template does not accept the messages",
    }.items():
        bare.chat_template = template
        for read in (check_files, load_files):
            with pytest.raises(ValueError, match=f"a.jsonl, line 1: {message}"):
                read(folder, bare)


def test_text_column_chooses_the_column(tmp_path, tokenizer):
    rows = [{"body": f"Body {i}.", "text": f"Other {i}.", "talk": cases.turns(f"Ask {i}", "Yes.")} for i in range(9)]
    folder = cases.write(tmp_path / "text", {"a.jsonl": cases.lines(rows), "b.txt": "A plain text."})
    for column, expected in {"body": "Body 7.", "talk": "user\nAsk 7<|im_end|>", None: "Other 7."}.items():
        check_files(folder, tokenizer, column)
        text = words(tokenizer, load_files(folder, tokenizer, text_column=column))
        assert expected in text and "A plain text." in text
    for read in (check_files, load_files):
        message = r"text_column = 'page': .*a.jsonl has no such column; there are body, text, talk"
        with pytest.raises(ValueError, match=message):
            read(folder, tokenizer, text_column="page")
    # A column that is part of a known set can be chosen, too.
    cases.write(folder, {"a.jsonl": cases.lines([{"input": f"Input {i}."} for i in range(3)])})
    assert "Input 1." in words(tokenizer, load_files(folder, tokenizer, text_column="input"))


def test_columns_that_were_read_are_logged(tmp_path, tokenizer, caplog):
    folder = cases.write(tmp_path / "text", cases.TEXTS["alpaca"]())
    with caplog.at_level(logging.INFO, logger="longrecipe"):
        load_files(folder, tokenizer)
    assert "columns instruction + input + output (50)" in caplog.text


def test_check_reads_few_of_many_files(tmp_path, tokenizer, monkeypatch):
    from longrecipe.data import textcheck

    folder = cases.write(tmp_path / "text", {f"{i:04d}.txt": f"Text {i}." for i in range(2000)})
    cases.write(folder, {"z.jsonl": cases.lines([{"body": "x"}]), "zz.txt": cases.POINTER})
    read, rows_of = [], textcheck.rows_of
    monkeypatch.setattr(textcheck, "rows_of", lambda file, *args, **options: read.append(file) or rows_of(file, *args))
    with pytest.raises(ValueError, match=r"zz.txt is a Git LFS pointer"):
        check_files(folder, tokenizer)
    (folder / "zz.txt").unlink()
    with pytest.raises(ValueError, match=r"z.jsonl has the columns body"):
        check_files(folder, tokenizer)
    (folder / "z.jsonl").unlink()
    read.clear()
    check_files(folder, tokenizer)
    assert 200 < len(read) < 300


def test_check_accepts_files_with_text_in_later_rows(tmp_path, tokenizer):
    rows = [{"text": ""}] * 1500 + [{"text": "One."}, {"text": "Two."}]
    folder = cases.write(tmp_path / "text", {"a.jsonl": cases.lines(rows), "long.txt": "é" * (1 << 20)})
    check_files(folder, tokenizer)
    assert "Two." in words(tokenizer, load_files(folder / "a.jsonl", tokenizer))


def test_unknown_columns_error_lists_all_columns_of_a_parquet_file(tmp_path, tokenizer):
    files = {"a.parquet": cases.parquet(body=["One."], input=["x"], id=[1])}
    folder = cases.write(tmp_path / "text", files)
    with pytest.raises(ValueError, match=r"a.parquet has the columns input, body, id: a document is read from text;"):
        load_files(folder, tokenizer)
