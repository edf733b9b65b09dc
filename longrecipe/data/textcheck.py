"""A check of your own text that takes seconds, before anything is tokenised."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from longrecipe.data.textcolumns import Document, NoTextError, clean, documents_of, known_columns
from longrecipe.data.textfiles import encode_documents, fingerprint, too_few
from longrecipe.data.textrows import rows_of
from longrecipe.data.textwalk import TEXT, files_of, kind_of
from longrecipe.system.paths import check_pointer, user_path

# At most this many files are read, and this many are tested for pointers.
_FILES, _POINTERS = 256, 10_000
# At most this much is read of each file. A larger file that can only be read as a whole is not read.
_BYTES, _ROWS, _WHOLE_BYTES = 1 << 20, 1000, 1 << 26


def check_files(
    path: str | Path, tokenizer: PreTrainedTokenizerBase | None = None, text_column: str | None = None
) -> None:
    """Raise the errors of `textfiles.load_files` that can be found in the first rows of up to 256 files.

    The first file of each kind is read, and other files evenly spread over the folder.
    Args: as for `load_files`. Without a tokenizer the chat template is not checked.
    """
    path = user_path(path)
    files, _ = files_of(path)
    for file in files[:_POINTERS]:
        check_pointer(file)
    first = {kind_of(file): file for file in reversed(files)}.values()
    chosen = list(dict.fromkeys([*first, *files[:: max(1, len(files) // _FILES)]]))
    seen: set[bytes] = set()
    is_all = len(chosen) == len(files)
    for file in chosen:
        found, is_whole = _head(file, text_column)
        if tokenizer is not None:
            encode_documents(tokenizer, [each for each in found if not isinstance(each.content, str)][:4])
        seen.update(map(fingerprint, found))
        is_all = is_all and is_whole
    if is_all and len(seen) < 2:
        raise too_few(f"text = {str(path)!r}", len(seen))


def _head(file: Path, text_column: str | None) -> tuple[list[Document], bool]:
    """The first documents of a file, and whether these are all documents."""
    kind, ending = kind_of(file), file.suffix.lower()
    size = file.stat().st_size
    if kind in TEXT:
        (row,) = rows_of(file, most_bytes=_BYTES)
        text = clean(row.columns["text"])
        return [Document(text, str(file))] * bool(text.strip()), size < _BYTES and ending == kind
    if size > _WHOLE_BYTES and (kind == ".json" or (kind == ".parquet" and ending != kind)):
        return [], False
    rows, n_bytes, is_whole = [], 0, True
    for row in rows_of(file, known_columns(text_column)):
        if len(rows) == _ROWS or n_bytes > _BYTES:
            is_whole = False
            break
        rows.append(row)
        n_bytes += sum(len(value) for value in row.columns.values() if isinstance(value, str))
    try:
        return list(documents_of(rows, str(file), text_column)), is_whole
    except NoTextError:
        # There may be text in later rows.
        if is_whole:
            raise
        return [], False
