"""Text of your own: files of documents of any number and size, tokenised to disk once."""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from pyarrow import ArrowInvalid
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from longrecipe.corpus import Corpus
from longrecipe.errors import reason
from longrecipe.paths import cache_dir, write_text
from longrecipe.processes import made_once

# How `datasets` reads each kind of file; a text file is one document.
READERS = {
    ".txt": ("text", {"sample_by": "document"}),
    ".md": ("text", {"sample_by": "document"}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}
# Columns that hold a document; instructions and their answers are read as one.
COLUMNS = (("text",), ("instruction", "output"), ("problem", "solution"), ("prompt", "response"))
_DTYPE = np.dtype("uint32")
_AT_ONCE = 64


def load_files(
    path: str | Path, tokenizer: PreTrainedTokenizerBase, held_out_every: int = 20, most_tokens: int | None = None
) -> Corpus:
    """The documents of a file or a folder (.txt, .md, .jsonl, .parquet), tokenised, joined by blank lines.

    Tokens are written to the cache folder once, and read from there as a memory map: a corpus may be larger than the
    memory. A document that was there before is dropped; one in held_out_every is held out for measuring. The cache goes
    by the files' names, sizes and times and by the tokenizer; several processes make it once.
    Args: held_out_every: 2 or more; most_tokens: reading stops within 64 documents of so many, None reads all.
    Returns a Corpus of uint32 ids. Raises FileNotFoundError where there is no such file, ValueError for a file of
    another kind, for one that is empty, corrupt or without a column of text, and where there are too few documents.
    """
    files = files_of(path)
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return tokenised(documents(files), tokenizer, Path(path).stem, stamps, held_out_every, most_tokens)


def tokenised(
    texts: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    source: list,
    held_out_every: int = 20,
    most_tokens: int | None = None,
) -> Corpus:
    """Documents as a Corpus on disk, made once; arguments and errors as those of `load_files`.

    texts: read where the cache has them not; name: of the source, for people; source: what tells its versions apart.
    """
    if held_out_every < 2:
        raise ValueError(f"held_out_every = {held_out_every}: at least 2, or nothing is left to train on.")
    settings = [_DTYPE.str, held_out_every, most_tokens, source, sorted(tokenizer.get_vocab().items())]
    folder = cache_dir() / "text" / f"{name}-{hashlib.sha256(repr(settings).encode()).hexdigest()[:10]}"
    made_once(folder, lambda: _tokenise(folder, texts, tokenizer, name, held_out_every, most_tokens))
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    train, held_out = (np.memmap(folder / f"{part}.bin", dtype=_DTYPE, mode="r") for part in ("train", "held_out"))
    return Corpus(train, held_out, about["sha256"])


def files_of(path: str | Path) -> list[Path]:
    """The files of text at a path, itself or all below it, by name. Raises as `load_files` says."""
    path, kinds = Path(path), ", ".join(READERS)
    if path.is_file():
        if path.suffix not in READERS:
            raise ValueError(
                f"text = {str(path)!r}: files of text are {kinds}, and this one is {path.suffix or 'bare'}."
            )
    elif not path.is_dir():
        raise FileNotFoundError(f"text = {str(path)!r}: there is no such file or folder; name one that holds {kinds}.")
    below = [path] if path.is_file() else path.rglob("*")
    files = sorted(file for file in below if file.suffix in READERS and file.is_file())
    if not files:
        raise FileNotFoundError(f"text = {str(path)!r}: the folder holds no file of text ({kinds}).")
    if empty := [file for file in files if not file.stat().st_size]:
        raise ValueError(f"text = {str(path)!r}: {empty[0]} is empty; put text into it, or take it away.")
    return files


def documents(files: list[Path]) -> Iterator[str]:
    """The documents of files, one after the other; those without a word are passed over."""
    for file in files:
        yield from texts_of(_rows(file), str(file))


def texts_of(rows: Iterable[Mapping], source: str) -> Iterator[str]:
    """The text of each row that has any; source names the rows in errors. Raises ValueError without a known column."""
    columns: tuple[str, ...] | None = None
    for row in rows:
        columns = columns or next((names for names in COLUMNS if set(names) <= row.keys()), None)
        if columns is None:
            known = "; or ".join(" and ".join(names) for names in COLUMNS)
            raise ValueError(f"{source} has the columns {', '.join(row)}: a document is read from {known}.")
        text = "\n".join(str(row[name]) for name in columns if row[name])
        if text.strip():
            yield text


def _rows(file: Path) -> Iterator[Mapping]:
    reader, options = READERS[file.suffix]
    try:
        yield from load_dataset(reader, data_files=str(file), split="train", streaming=True, **options)
    except (ArrowInvalid, DatasetsError, UnicodeDecodeError, RuntimeError) as error:
        raise ValueError(
            f"{file} cannot be read as {file.suffix} ({reason(error)}): mend it, or take it away."
        ) from error


def _tokenise(folder: Path, *given: Any) -> None:
    """Make the folder, whole or not at all; given: what `_write` reads and how."""
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        about = _write(temporary, *given)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    write_text(temporary / "about.json", json.dumps(about, indent=1))
    temporary.rename(folder)


def _write(
    folder: Path,
    texts: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    held_out_every: int,
    most_tokens: int | None,
) -> dict:
    digest, counts, n_tokens = hashlib.sha256(), [0, 0], 0
    fresh = _without_copies(texts, digest)
    with (
        (folder / "train.bin").open("wb") as train,
        (folder / "held_out.bin").open("wb") as held_out,
        tqdm(desc="tokens of text", unit=" documents", leave=False) as bar,
    ):
        while (most_tokens is None or n_tokens < most_tokens) and (some := list(islice(fresh, _AT_ONCE))):
            encoded = tokenizer([text + "\n\n" for text in some], add_special_tokens=False, verbose=False)["input_ids"]
            for ids in encoded:
                is_held = sum(counts) % held_out_every == 0
                (held_out if is_held else train).write(np.asarray(ids, dtype=_DTYPE).tobytes())
                counts[is_held] += 1
                n_tokens += len(ids)
            bar.update(len(some))
    if not all(counts):
        raise ValueError(
            f"{name}: {sum(counts)} documents; one is held out for measuring, so at least 2 are needed: split the text "
            "into several files, or give .jsonl with a document a line."
        )
    about = {"name": name, "documents": sum(counts), "held_out": counts[1], "tokens": n_tokens}
    return about | {"sha256": digest.hexdigest()}


def _without_copies(texts: Iterator[str], digest: "hashlib._Hash") -> Iterator[str]:
    seen: set[bytes] = set()
    for text in texts:
        each = hashlib.sha256(text.encode()).digest()
        if each not in seen:
            seen.add(each)
            digest.update(each)
            yield text
