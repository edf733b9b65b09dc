"""Texts as people bring them, and small tokenizers.

`TEXTS[name]()` gives the files of a kind, `write` puts them into a folder; `write_links` makes links, `ODD_NAMES` are
names of files. READ and REFUSED in test_text_cases.py say what the result of each kind is.
"""

import bz2
import functools
import gzip
import io
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PARAGRAPHS = [
    f"This is paragraph {i} about the river and the town. It has {i % 9 + 2} boats; who counts them? "
    for i in range(400)
]
CHINESE = [f"今天天气很好。我们去公园散步吗？当然！第{i}章讲的是长江的故事，两岸的村庄很安静。" for i in range(400)]
JAPANESE = [f"第{i}章。吾輩は猫である。名前はまだ無い。どこで生まれたか見当がつかぬ。" for i in range(400)]
THAI = [f"แม่น้ำสายนี้ไหลผ่านเมืองที่{i} มีเรือหลายลำ และผู้คนมากมาย " for i in range(400)]
# The same sentences in three languages.
TRANSLATED = {
    "english": [
        "The river rises in the mountains and crosses the whole plain before it reaches the sea. ",
        "In spring the water is high, and the fishermen stay at home for several weeks. ",
        "Why did nobody build a bridge here before the war? ",
        "My grandfather used to say that the old ferry was faster than any train! ",
        "The village has a school, two shops and a small library next to the church. ",
        "Every evening the children walk along the bank and count the boats. ",
        "When the last boat has come home, the lamps in the harbour are lit. ",
        "Nobody knows exactly how deep the water under the old mill is. ",
    ],
    "chinese": [
        "这条河发源于山区，流过整个平原，最后注入大海。",
        "春天水位很高，渔民们要在家里待上好几个星期。",
        "为什么战争以前没有人在这里修一座桥呢？",
        "我的祖父常说，从前的渡船比任何火车都要快！",
        "村子里有一所学校、两家商店和教堂旁边的一个小图书馆。",
        "每天傍晚，孩子们都沿着河岸散步，数一数河里的船。",
        "等最后一条船回来以后，港口的灯就都点亮了。",
        "谁也不知道老磨坊下面的水到底有多深。",
    ],
    "japanese": [
        "この川は山から始まり、平野を横切って海へ流れ込む。",
        "春になると水かさが増し、漁師たちは何週間も家にいる。",
        "なぜ戦争の前に誰もここに橋を架けなかったのだろうか？",
        "祖父は昔の渡し船はどんな汽車よりも速かったと言っていた！",
        "村には学校と二軒の店、そして教会の隣に小さな図書館がある。",
        "毎晩、子どもたちは岸辺を歩いて船の数を数える。",
        "最後の船が戻ってくると、港の明かりがともされる。",
        "古い水車の下の水がどれほど深いのか、誰も知らない。",
    ],
}
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
Files = dict[str, str | bytes]


def byte_level_english() -> PreTrainedTokenizerFast:
    """Byte-level BPE that has seen English only, so that it cuts every other character into bytes."""
    return _byte_level(PARAGRAPHS)


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 1024 tokens with three control tokens and a chat template, as Qwen's is made."""
    return _byte_level(PARAGRAPHS + CHINESE + JAPANESE)


def _byte_level(texts: list[str]) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    end = "<|endoftext|>"
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, bos_token=end, model_max_length=512)
    found.chat_template = CHAT
    return found


@functools.cache
def byte_fallback(with_letters: bool = False) -> PreTrainedTokenizerFast:
    """BPE on characters with tokens `<0xNN>` for all others, as Llama 2's is made; with_letters: it knows CJK too."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    blanks = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    # Marks are tokens of their own.
    backend.pre_tokenizer = pre_tokenizers.Sequence([blanks, pre_tokenizers.Punctuation()])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    texts = PARAGRAPHS[:50] + (CHINESE[:20] + JAPANESE[:20] if with_letters else [])
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special[:3], show_progress=False)
    backend.train_from_iterator(texts, trainer)
    # The trainer knows nothing of bytes: put them into its vocabulary.
    state = json.loads(backend.to_str())
    words = [word for word in state["model"]["vocab"] if word not in special]
    state["model"]["vocab"] = {word: i for i, word in enumerate(special + words)}
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def byt5() -> PreTrainedTokenizerBase:
    """A tokenizer written in Python whose tokens are bytes."""
    return ByT5Tokenizer(extra_ids=0)


def lines(rows: list) -> str:
    """Rows as lines of JSON."""
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)


def parquet(**columns: list) -> bytes:
    """A parquet file of columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def zstd(data: bytes) -> bytes:
    """Data compressed as the program zstd does: a stream without its size."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def books(count: int = 4) -> Files:
    """Ordinary English books in .txt."""
    return {f"book{i}.txt": "".join(PARAGRAPHS[i * 60 : i * 60 + 180]) for i in range(count)}


def turns(question: str, answer: str) -> list[dict]:
    """A conversation of one question and its answer."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _translated(language: str) -> Files:
    """Three texts of 100 times eight sentences, in different orders."""
    sentences = TRANSLATED[language]
    return {f"{i}.txt": "".join(sentences[i:] + sentences[:i]) * 100 for i in range(3)}


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
TEXTS: dict[str, Callable[[], Files]] = {
    # scripts
    "english": books,
    "chinese": lambda: {f"c{i}.txt": "".join(CHINESE[i * 60 : i * 60 + 120]) for i in range(5)},
    "japanese": lambda: {f"j{i}.txt": "".join(JAPANESE[i * 60 : i * 60 + 120]) for i in range(5)},
    "thai": lambda: {f"t{i}.txt": "".join(THAI[i * 60 : i * 60 + 200]) for i in range(4)},
    "no_punctuation": lambda: {"a.txt": "river town boat " * 4000, "b.txt": "boat town river " * 4000},
    "no_punctuation_lines": lambda: {f"{i}.txt": f"river town boat {i}\n" * 1000 for i in range(3)},
    **{f"translated_{language}": functools.partial(_translated, language) for language in TRANSLATED},
    # file names and folders
    "brackets": lambda: {"a[1].txt": "Text of the bracket file. " * 50, "a1.txt": "Text of its neighbour. " * 50},
    "hidden": lambda: (
        books()
        | {
            ".git/x.txt": "SECRET",
            ".ipynb_checkpoints/book0.txt": "SECRET",
            "._book0.txt": b"\0\5\xff",
            "__MACOSX/x.txt": "SECRET",
        }
    ),
    "other_kinds": lambda: books() | {"a.pdf": "SECRET", "b.tar.gz": b"SECRET", "Makefile": "SECRET"},
    "empty_file": lambda: books() | {"e.txt": "", "e.jsonl": "", "blank.txt": " \n\n "},
    "repeated": lambda: books() | {"copy.txt": books()["book0.txt"]},
    # formats
    "upper_case": lambda: {
        "A.TXT": "Upper one. ",
        "B.JSONL": '{"text": "Upper two."}',
        "C.Txt.GZ": gzip.compress(b"Upper three."),
    },
    "json_array": lambda: {"a.json": json.dumps([{"text": "First row."}, {"text": "Second row."}], indent=1)},
    "json_object": lambda: books(1) | {"a.json": json.dumps({"text": "One object."}, indent=1)},
    "json_lines": lambda: {
        "a.json": lines([{"text": "First row."}, {"text": "Second row."}]),
        "b.ndjson": '\n{"text": "Third row."}\n\n',
    },
    "csv": lambda: {
        "a.csv": 'text,label\n"One, with a comma.\nTwo lines.",x\nNA,y\n2021-01-01,z\n',
        "b.tsv": "label\ttext\nx\tTabbed row.\n",
    },
    "csv_long_field": lambda: {"a.csv": "text\n" + "word " * 60_000 + "\nShort one.\n"},
    "parquet": lambda: {"a.parquet": parquet(text=["First row.", "Second row."], label=[1, 2])},
    "compressed": lambda: {
        "a.txt.gz": gzip.compress(b"Zipped one."),
        "b.txt.bz2": bz2.compress(b"Zipped two."),
        "c.txt.xz": lzma.compress(b"Zipped three."),
        "d.jsonl.gz": gzip.compress(b'{"text": "Zipped four."}'),
        "e.csv.xz": lzma.compress(b"text\nZipped five.\n"),
        "f.json.bz2": bz2.compress(b'[{"text": "Zipped six."}]'),
        "g.parquet.gz": gzip.compress(parquet(text=["Zipped seven."])),
        "h.jsonl.zst": zstd(b'{"text": "Zipped eight."}\n{"text": "Zipped nine."}\n'),
    },
    "mixed_types": lambda: {
        "a.jsonl": lines(
            [{"text": "First row.", "id": 1}, {"text": "Second row.", "id": "x"}, {"text": "Third row.", "id": [1]}]
        )
    },
    # columns
    "alpaca": lambda: {
        "a.jsonl": lines(
            [{"instruction": f"Summarise {i}", "input": p, "output": "Short."} for i, p in enumerate(PARAGRAPHS[:50])]
        )
    },
    "alpaca_without_input": lambda: {
        "a.jsonl": lines([{"instruction": f"Count {i}", "input": "", "output": "Short."} for i in range(9)])
    },
    "dolly": lambda: {
        "a.jsonl": lines(
            [{"instruction": f"Ask {i}", "context": f"Document {i}", "response": "Short."} for i in range(9)]
        )
    },
    "openorca": lambda: {
        "a.jsonl": lines(
            [{"system_prompt": "Be kind.", "question": f"Ask {i}", "response": "Short."} for i in range(9)]
        )
    },
    "squad": lambda: {
        "a.jsonl": lines([{"context": f"Document {i}", "question": "Who?", "answer": i} for i in range(9)])
    },
    "messages": lambda: {"a.jsonl": lines([{"messages": turns("What is it?", p)} for p in PARAGRAPHS[:50]])},
    "messages_parquet": lambda: {
        "a.parquet": parquet(messages=[turns("What is it?", p) for p in PARAGRAPHS[:9]], id=list(range(9)))
    },
    "sharegpt": lambda: {
        "a.jsonl": lines(
            [
                {
                    "system": "Be kind.",
                    "conversations": [{"from": "human", "value": f"Ask {i}"}, {"from": "gpt", "value": "Short."}],
                }
                for i in range(9)
            ]
        )
    },
    "prompt_completion": lambda: {
        "a.jsonl": lines(
            [{"prompt": turns(f"Ask {i}", "")[:1], "completion": turns("", "Short.")[1:]} for i in range(9)]
        )
    },
    "content_parts": lambda: {
        "a.jsonl": lines([{"messages": turns([{"type": "text", "text": f"Ask {i}"}], "Short.")} for i in range(9)])
    },
    "tool_calls": lambda: {
        "a.jsonl": lines(
            [{"messages": [*turns(f"Ask {i}", None), {"role": "tool", "content": "It is 5."}]} for i in range(9)]
        )
    },
    "control_tokens_in_messages": lambda: {
        "a.jsonl": lines([{"messages": turns(f"Say <|im_end|> {i}", "<|im_start|>system")} for i in range(9)])
    },
    "mixed_columns": lambda: {
        "a.jsonl": lines(
            [{"text": "First row."}, {"prompt": "Second", "response": "row."}, {"messages": turns("Third", "row.")}]
        )
    },
    "empty_text_column": lambda: {
        "a.jsonl": lines([{"prompt": f"Ask {i}", "response": "Short.", "text": ""} for i in range(9)])
    },
    "null_rows": lambda: {
        "a.jsonl": lines([{"text": None}, {"text": "First row."}, {"id": 3}, {"text": " "}, {"text": "Second row."}])
    },
    "content": lambda: {"a.jsonl": lines([{"content": f"File {i}", "path": "a.py"} for i in range(9)])},
    # characters
    "byte_order_mark": lambda: {
        "a.txt": b"\xef\xbb\xbfMarked one.",
        "b.jsonl": b'\xef\xbb\xbf{"text": "Marked two."}',
        "c.csv": b"\xef\xbb\xbftext\nMarked three.\n",
        "d.json": b'\xef\xbb\xbf[{"text": "Marked four."}]',
    },
    "crlf": lambda: {
        "a.txt": "One.\r\nTwo.\r\n",
        "b.txt": "Three.\rFour.",
        "c.jsonl": json.dumps({"text": "Five.\r\nSix."}),
        "d.csv": 'text\r\n"Seven.\r\nEight."\r\n',
    },
    "special_tokens": lambda: (
        books() | {"s.txt": "Hello <|im_start|>user and <|endoftext|> in a text about chats. " * 40}
    ),
    "lone_surrogate": lambda: {"a.jsonl": '{"text": "Half \\ud83d here."}\n{"text": "Whole \\ud83d\\ude00 here."}'},
    "line_separators": lambda: {"a.jsonl": lines([{"text": "First\u2028row."}, {"text": "Second\u0085row."}])},
    # refused
    "list_in_text": lambda: {"a.jsonl": lines([{"text": [p, p]} for p in PARAGRAPHS[:9]])},
    "dict_in_text": lambda: {"a.jsonl": lines([{"text": {"body": p}} for p in PARAGRAPHS[:9]])},
    "number_in_text": lambda: {"a.jsonl": lines([{"text": i} for i in range(9)])},
    "parquet_list": lambda: {"a.parquet": parquet(text=[["one part", "another part"]] * 9)},
    "parquet_bytes": lambda: {"a.parquet": parquet(text=[b"one", b"two"])},
    "messages_as_string": lambda: {"a.csv": "messages\n\"[{'role': 'user'}]\"\n"},
    "unknown_role": lambda: {"a.jsonl": lines([{"messages": [{"role": "narrator", "content": "x"}]}])},
    "content_dict": lambda: {"a.jsonl": lines([{"messages": [{"role": "user", "content": {"x": 1}}]}])},
    "unknown_columns": lambda: {"a.jsonl": lines([{"body": p, "id": 1} for p in PARAGRAPHS[:9]])},
    "all_empty": lambda: {"a.jsonl": lines([{"text": "", "id": i} for i in range(9)])},
    "json_list_of_strings": lambda: {"a.json": json.dumps(["one", "two"])},
    "latin1": lambda: books() | {"l.txt": "Café au lait.".encode("latin-1")},
    "latin1_jsonl": lambda: {"l.jsonl": '{"text": "One."}\n{"text": "Café"}'.encode("latin-1")},
    "utf16": lambda: books() | {"u.txt": "Wide text.".encode("utf-16")},
    "utf16_without_mark": lambda: books() | {"u.txt": "Wide text.".encode("utf-16-le")},
    "cut_jsonl": lambda: {"a.jsonl": lines([{"text": p} for p in PARAGRAPHS]) + '\n{"text": "cut of'},
    "cut_gzip": lambda: books() | {"z.txt.gz": gzip.compress(os.urandom(500).hex().encode())[:-40]},
    "cut_zstd": lambda: books() | {"z.txt.zst": zstd(os.urandom(500).hex().encode())[:-40]},
    "not_gzip": lambda: books() | {"z.txt.gz": b"plain text"},
    "cut_parquet": lambda: {"a.parquet": parquet(text=["One.", "Two."])[:-10]},
    "cut_csv": lambda: {"a.csv": 'text\nOne.\n"Two'},
    "unquoted_comma": lambda: {"a.csv": "text,label\nOne, with a comma.,x\n"},
    "lfs_text": lambda: books() | {"p.txt": POINTER},
    "lfs_parquet": lambda: {"p.parquet": POINTER},
    "one_document": lambda: {"a.txt": "Only one."},
    "twice_the_same": lambda: {"a.txt": "Only one.", "b.txt": "Only one."},
    "nothing": lambda: {"notes.pdf": "x", ".hidden.txt": "x"},
    "only_empty": lambda: {"a.txt": "", "b.jsonl": ""},
    "only_blank": lambda: {"a.txt": " \n ", "b.txt": "\n"},
}
# Characters that a library may take for a pattern, an option, a URL or a part of one.
ODD_NAMES = [
    "a[1]",
    "a*",
    "a?",
    "a{1,2}",
    "a%20b",
    "a#b",
    "a b",
    "a::b",
    "-a",
    "a'\"b",
    "é",
    "[!1]",
    "a\\b",
    "~a",
    "$HOME",
    "a&b",
    "zip",
    "a;b",
    "file:a",
    "a\nb",
    # A name that is not UTF-8.
    os.fsdecode(b"caf\xe9"),
]


def write(folder: Path, files: Files) -> Path:
    """Write files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def write_links(folder: Path) -> Path:
    """Books, and beside them links: to a folder, to a file in it, to nothing, and to a parent folder."""
    write(folder, books())
    other = write(folder.parent / "linked_to", {"t.txt": "Text of the linked folder. " * 50})
    os.symlink(other, folder / "folder")
    os.symlink(other / "t.txt", folder / "z.txt")
    os.symlink("nowhere.txt", folder / "broken.txt")
    os.symlink(folder, folder / "loop")
    return folder
