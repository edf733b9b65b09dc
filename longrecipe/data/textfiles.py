"""Your own text: files of any number and size, tokenised once to disk."""

import array
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from longrecipe.data.corpus import Corpus
from longrecipe.data.encoding import encode, encode_conversation
from longrecipe.data.holdout import HELD_OUT_EVERY, held_out_documents, split_tokens
from longrecipe.data.textcolumns import Document, clean, documents_of, known_columns
from longrecipe.data.textrows import rows_of
from longrecipe.data.textwalk import TEXT, Report, files_of, kind_of
from longrecipe.system.codehash import code_hash
from longrecipe.system.files import new_folder, read_json, write_text
from longrecipe.system.paths import cache_dir, user_path
from longrecipe.system.processes import is_main, made_once

log = logging.getLogger(__name__)
_DTYPE = np.dtype("uint32")
_AT_ONCE = 64


def load_files(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out_every: int = HELD_OUT_EVERY,
    most_tokens: int | None = None,
    text_column: str | None = None,
) -> Corpus:
    """Load a file, or all files below a folder, as tokens. Documents are separated by blank lines.

    A .txt, .md or .rst file is one document; .jsonl, .ndjson, .json, .csv, .tsv and .parquet files have one in each
    row. All may be compressed (.gz, .bz2, .xz, .zst). Documents that occurred before are dropped. About one token in
    held_out_every is held out for measuring, in whole documents. What was read and what was skipped is logged.
    Tokens are written to the cache once and read as a memory map, so a corpus may be larger than the memory. The name
    in the cache depends on the files' names, sizes and times, on the tokenizer and on the code that reads. If several
    processes or runs need the same text, one reads it and the others wait.
    Args: path, relative to the working directory; held_out_every, at least 2; most_tokens, reading stops within 64
    documents of this number, None reads all; text_column, the column to read, None reads the first of
    `textcolumns.COLUMNS` with text.
    Returns a Corpus of uint32 ids. Raises FileNotFoundError if there is no such file, and ValueError if a file is
    corrupt, not UTF-8, of another kind or without a column of text, or if there are fewer than two documents.
    """
    path = user_path(path)
    files, walked = files_of(path)
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    report = Report()
    return tokenise(
        documents(files, text_column, report=report),
        tokenizer,
        name=path.stem,
        source=[stamps, text_column],
        held_out_every=held_out_every,
        most_tokens=most_tokens,
        label=f"text = {str(path)!r}",
        report=report,
        walked=walked,
    )


def documents(
    files: Iterable[Path], text_column: str | None = None, *, report: Report | None = None
) -> Iterator[Document]:
    """The documents of files, one after the other. report counts the files and what is skipped in them."""
    report = Report() if report is None else report
    for file in files:
        report.n_files += 1
        if kind_of(file) not in TEXT:
            yield from documents_of(rows_of(file, known_columns(text_column)), str(file), text_column, report=report)
            continue
        for row in rows_of(file):
            text = clean(row.columns["text"])
            if text.strip():
                yield Document(text, str(file))
            else:
                report.skip("empty", file.name)


def tokenise(
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    source: list,
    label: str,
    report: Report,
    walked: Report | None = None,
    held_out_every: int = HELD_OUT_EVERY,
    most_tokens: int | None = None,
) -> Corpus:
    """Write the tokens of documents to the cache once, and return them as a Corpus.

    Args: documents, read only if they are not in the cache; name, of the folder in the cache; source, what identifies
    this version of the text; label, the text's name in messages; report, filled in when the documents are read; walked,
    what was skipped when the files were found. Others and errors as for `load_files`.
    """
    if held_out_every < 2:
        raise ValueError(f"held_out_every = {held_out_every}: must be at least 2, or no text is left for training.")
    vocabulary = [sorted(tokenizer.get_vocab().items()), tokenizer.chat_template]
    # After a change of the code, other documents may be read, or other tokens.
    code = code_hash("longrecipe.data.textfiles:load_files", "longrecipe.data.hubtext:load_hub_text")
    settings = [code, held_out_every, most_tokens, source, vocabulary]
    folder = cache_dir() / "text" / f"{name}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:10]}"

    def make() -> None:
        with new_folder(folder) as temporary:
            about = _write(
                temporary,
                _without_copies(documents, digest := hashlib.sha256(), report),
                tokenizer,
                held_out_every=held_out_every,
                most_tokens=most_tokens,
                label=label,
            )
            about |= {"report": asdict(report), "sha256": digest.hexdigest()}
            write_text(temporary / "about.json", json.dumps(about, indent=1))

    made_once(folder, make, f"reads {label}")
    about = _about(folder)
    if is_main():
        log.info("%s", _summary(label, about, walked or Report()))
    train, held_out = (np.memmap(folder / f"{part}.bin", dtype=_DTYPE, mode="r") for part in ("train", "held_out"))
    return Corpus(train, held_out, about["sha256"], about["report"]["hub"])


def _about(folder: Path) -> dict:
    """The record of a text in the cache. Raises ValueError if its files are damaged."""
    fix = f"delete {folder}, and the same command reads the text again"
    about = read_json(folder / "about.json", fix)
    for name, n_tokens in (("train", about["tokens"] - about["held_out"]), ("held_out", about["held_out"])):
        path = folder / f"{name}.bin"
        if not path.is_file() or path.stat().st_size != n_tokens * _DTYPE.itemsize:
            raise ValueError(f"{path} is damaged: it must have {n_tokens:,} tokens; {fix}.")
    return about


def too_few(label: str, count: int) -> ValueError:
    """The error for a text with fewer than two documents."""
    return ValueError(
        f"{label}: {count} document{'s' * (count != 1)}; one is held out for measuring, so at least 2 are needed: "
        "split the text into several files, or write a .jsonl file with one document per line."
    )


def _summary(label: str, about: dict, walked: Report) -> str:
    """One line about a text: what was read, what was skipped, and why."""
    reading = Report(**about["report"])
    for why, count in reading.counts.items():
        walked.skip(why, count=count)
        walked.examples[why] = [*walked.examples[why], *reading.examples[why]][:3]
    files = f"{reading.n_files:,} file{'s' * (reading.n_files != 1)}, " if reading.n_files else ""
    read = f"{files}{about['documents']:,} documents, {about['tokens']:,} tokens (held out {about['held_out']:,})"
    if reading.columns:
        read += ", columns " + ", ".join(f"{names} ({count:,})" for names, count in reading.columns.items())
    if reading.hub:
        read += f", from {reading.hub}"
    if about["stopped_at"]:
        read += f", stopped at text_tokens = {about['stopped_at']:,}"
    return f"{label}: read {read}; skipped: {walked.skipped() or 'nothing'}"


def _write(
    folder: Path,
    documents: Iterator[Document],
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out_every: int,
    most_tokens: int | None,
    label: str,
) -> dict:
    """Write train.bin and held_out.bin to a folder, and return the numbers of documents and tokens."""
    lengths, n_tokens = array.array("q"), 0
    with (
        (folder / "tokens.bin").open("wb") as file,
        tqdm(desc="tokens of text", unit=" documents", leave=False) as bar,
    ):
        while (most_tokens is None or n_tokens < most_tokens) and (some := list(islice(documents, _AT_ONCE))):
            for ids in filter(len, encode_documents(tokenizer, some)):
                file.write(np.asarray(ids, dtype=_DTYPE).tobytes())
                lengths.append(len(ids))
                n_tokens += len(ids)
            bar.update(len(some))
    if len(lengths) < 2:
        raise too_few(label, len(lengths))
    sizes = np.asarray(lengths, dtype=np.int64)
    is_held = held_out_documents(sizes, held_out_every)
    split_tokens(
        folder / "tokens.bin",
        folder / "train.bin",
        folder / "held_out.bin",
        lengths=sizes,
        is_held=is_held,
        dtype=_DTYPE,
    )
    stopped_at = most_tokens if most_tokens is not None and n_tokens >= most_tokens else None
    n_held = int(sizes[is_held].sum())
    return {"documents": len(sizes), "tokens": n_tokens, "held_out": n_held, "stopped_at": stopped_at}


def encode_documents(tokenizer: PreTrainedTokenizerBase, documents: list[Document]) -> list[list[int]]:
    """The token ids of documents, each with newlines at its end."""
    texts = [each.content + "\n\n" for each in documents if isinstance(each.content, str)]
    encoded = iter(encode(tokenizer, texts) if texts else [])
    return [
        next(encoded) if isinstance(content, str) else encode_conversation(tokenizer, content, place)
        for content, place in documents
    ]


def _without_copies(documents: Iterator[Document], digest: "hashlib._Hash", report: Report) -> Iterator[Document]:
    seen: set[bytes] = set()
    for document in documents:
        each = fingerprint(document)
        if each in seen:
            report.skip("repeated document", Path(document.place).name)
        else:
            seen.add(each)
            digest.update(each)
            yield document


def fingerprint(document: Document) -> bytes:
    """The SHA-256 of a document's content."""
    content = document.content if isinstance(document.content, str) else json.dumps(document.content, default=str)
    return hashlib.sha256(content.encode()).digest()
