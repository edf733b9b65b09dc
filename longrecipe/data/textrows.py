"""Text files as rows, in all supported formats and compressions.

`datasets` is not used because it changes text: dates become datetimes, "NA" becomes None, a byte order mark stays, and
file names are read as patterns.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from longrecipe.data.textwalk import TEXT, kind_of
from longrecipe.system.errors import reason
from longrecipe.system.paths import check_pointer

_OPEN: dict[str, Callable[[Path], IO[bytes]]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda file: io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file.open("rb")), "zstd")),
}
_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException, csv.Error)


class Row(NamedTuple):
    """A row of a file: its columns, its place for error messages (such as `line 7`), and the columns not read."""

    columns: Mapping[str, Any]
    place: str
    not_read: tuple[str, ...] = ()


def rows_of(file: Path, known: set[str] | None = None, most_bytes: int | None = None) -> Iterator[Row]:
    """The rows of a file. A plain text file is one row with the column `text`.

    known: columns that may be read; if a parquet file has some of them, its other columns are not read. most_bytes: how
    much of a plain text file is read, None for all.
    Raises ValueError, with the file's name, if it is corrupt, cut off, not UTF-8, a Git LFS pointer or not readable.
    """
    check_pointer(file)
    try:
        with _OPEN.get(file.suffix.lower(), lambda path: path.open("rb"))(file) as stream:
            yield from _rows(file, stream, known or set(), most_bytes)
    except _BROKEN as error:
        raise _broken(file, reason(error)) from error


def _rows(file: Path, stream: IO[bytes], known: set[str], most_bytes: int | None) -> Iterator[Row]:
    kind = kind_of(file)
    if kind in TEXT:
        data = stream.read() if most_bytes is None else stream.read(most_bytes)
        yield Row({"text": _plain(file, data, is_whole=most_bytes is None or len(data) < most_bytes)}, "the text")
    elif kind == ".parquet":
        yield from _parquet(file, stream, known)
    elif kind in (".csv", ".tsv"):
        yield from _table(file, stream, "," if kind == ".csv" else "\t")
    else:
        yield from _json(file, stream)


def _plain(file: Path, data: bytes, is_whole: bool) -> str:
    """The text of a file, without a byte order mark."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The first most_bytes of a file may end inside a character.
        if is_whole or error.start < len(data) - 3:
            raise _not_utf8(file, data, error.start) from error
        text = data[: error.start].decode("utf-8-sig")
    if "\0" in text:
        raise _not_utf8(file, data, data.index(0))
    return text


def _json(file: Path, stream: IO[bytes]) -> Iterator[Row]:
    """The rows of a file with one JSON value per line; or with one array or object, which is read into memory."""
    is_first = True
    for number, line in enumerate(stream, 1):
        text = _decoded(file, line, number)
        if not text.strip():
            continue
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not is_first or text.strip()[0] not in "[{":
                raise _broken(file, f"line {number}: {reason(error)}") from error
            yield from _whole(file, text + _decoded(file, stream.read(), number + 1), reason(error))
            return
        is_first = False
        if isinstance(found, list):
            yield from _listed(file, found)
        else:
            yield _row(file, found, f"line {number}")


def _whole(file: Path, text: str, first_error: str) -> Iterator[Row]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"{first_error}; as one array or object: {reason(error)}") from error
    yield from _listed(file, found if isinstance(found, list) else [found])


def _listed(file: Path, found: list) -> Iterator[Row]:
    return (_row(file, each, f"row {i}") for i, each in enumerate(found, 1))


def _row(file: Path, found: Any, place: str) -> Row:
    if not isinstance(found, dict):
        raise ValueError(
            f"{file}, {place}: a {type(found).__name__} instead of an object with columns; write each document as "
            '{"text": "..."}.'
        )
    return Row(found, place)


def _table(file: Path, stream: IO[bytes], delimiter: str) -> Iterator[Row]:
    # The default limit of the csv module is 131,072 characters per field.
    csv.field_size_limit(2**31 - 1)
    lines = (_decoded(file, line, number) for number, line in enumerate(stream, 1))
    reader = csv.DictReader(lines, delimiter=delimiter, strict=True)
    for number, row in enumerate(reader, 1):
        if None in row:
            raise ValueError(
                f"{file}, row {number} has more fields than the first line has columns: put quotes around text that "
                f"contains {'a comma' if delimiter == ',' else 'a tab'}."
            )
        yield Row({name: value for name, value in row.items() if value is not None}, f"row {number}")


def _parquet(file: Path, stream: IO[bytes], known: set[str]) -> Iterator[Row]:
    # An open file, because pyarrow may read a path as a URI.
    source = stream if file.suffix.lower() == ".parquet" else pa.BufferReader(stream.read())
    with pq.ParquetFile(source) as table:
        names, n_rows = table.schema_arrow.names, 0
        wanted = [name for name in names if name in known] or names
        others = tuple(name for name in names if name not in wanted)
        for batch in table.iter_batches(64, columns=wanted):
            for row in batch.to_pylist():
                n_rows += 1
                yield Row(row, f"row {n_rows}", others)


def _decoded(file: Path, data: bytes, number: int) -> str:
    try:
        text = data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(file, data, error.start, f"line {number}, ") from error
    if "\0" in text:
        raise _not_utf8(file, data, data.index(0), f"line {number}, ")
    return text


def _not_utf8(file: Path, data: bytes, place: int, line: str = "") -> ValueError:
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff") or 0 in data[:100]
    name = "utf-16" if is_utf16 else "latin1"
    return ValueError(
        f"{file} is not UTF-8 text ({line}byte {place:,} is 0x{data[place]:02x}): convert it, for instance with "
        f"`iconv -f {name} -t utf-8`, or remove it."
    )


def _broken(file: Path, why: str) -> ValueError:
    return ValueError(f"{file} cannot be read as {''.join(file.suffixes[-2:])} ({why}): repair or remove it.")
