"""Which files of a folder are read as text, and which are skipped and why."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from longrecipe.system.errors import reason

TEXT = (".txt", ".md", ".rst")
ROWS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_NOUNS = ("link", "document", "row")
_KINDS = f"{', '.join(TEXT + ROWS)}, each also with {', '.join(COMPRESSED)}"


@dataclass
class Report:
    """What was read: the number of files, and of rows by column. What was skipped, by reason: numbers and examples.

    hub: the dataset that was read, as owner/name@commit.
    """

    n_files: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    hub: str | None = None

    def skip(self, why: str, example: str = "", count: int = 1) -> None:
        """Count something that is skipped. why: an adjective, or a noun in the singular."""
        self.counts[why] = self.counts.get(why, 0) + count
        some = self.examples.setdefault(why, [])
        if example and example not in some and len(some) < 3:
            some.append(example)

    def skipped(self) -> str:
        """What was skipped, in words: `2 of other kinds (.pdf, .png), 1 broken link (old.txt)`."""
        parts = []
        for why, count in self.counts.items():
            name = why + "s" * (count > 1 and why.endswith(_NOUNS))
            some = self.examples[why]
            parts.append(f"{count:,} {name}" + f" ({', '.join(some)})" * bool(some))
        return ", ".join(parts)


def kind_of(file: Path) -> str | None:
    """The ending that decides how a file is read, for instance `.jsonl` for `A.JSONL.gz`; None if it is not read."""
    endings = [ending.lower() for ending in file.suffixes]
    if endings and endings[-1] in COMPRESSED:
        endings.pop()
    return endings[-1] if endings and endings[-1] in TEXT + ROWS else None


def files_of(path: Path) -> tuple[list[Path], Report]:
    """The text files at a path (the file itself, or all files below the folder), sorted, and what was skipped.

    Links are followed, and a file with several paths is read once. Hidden files and folders, broken links, empty files
    and files of other kinds are skipped.
    Args: path, absolute. Raises FileNotFoundError if there is no such path or no text file below it, and ValueError if
    the path is a file of another kind or a folder that cannot be read.
    """
    if path.is_file():
        if kind_of(path) is None:
            raise ValueError(f"text = {str(path)!r}: cannot read {_ending(path)!r} as text; allowed are {_KINDS}.")
        if not path.stat().st_size:
            raise ValueError(f"text = {str(path)!r}: the file is empty; put text into it, or choose another file.")
        return [path], Report()
    if not path.is_dir():
        raise FileNotFoundError(
            f"text = {str(path)!r}: there is no such file or folder; choose one with text ({_KINDS})."
        )
    report = Report()
    files = [file for file in _unique(_walk(path, report), report) if _is_read(file, path, report)]
    if not files:
        left = f" Skipped: {report.skipped()}." if report.counts else ""
        raise FileNotFoundError(f"text = {str(path)!r}: the folder has no file of text ({_KINDS}).{left}")
    return files, report


def _walk(folder: Path, report: Report) -> Iterator[Path]:
    """All files below a folder that are not hidden, sorted by path."""
    found, seen = [], set()

    def refuse(error: OSError) -> None:
        raise ValueError(f"text: {error.filename} cannot be read ({reason(error)}): change its permissions.") from error

    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(where)
        if real in seen:
            # A link to a folder that was read already, or to one of its own parents.
            report.skip("linked more than once", os.path.relpath(where, folder))
            folders.clear()
            continue
        seen.add(real)
        for name in [name for name in (*folders, *names) if _is_hidden(name)]:
            report.skip("hidden", os.path.relpath(os.path.join(where, name), folder))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        found += [Path(where, name) for name in names if not _is_hidden(name)]
    yield from sorted(found)


def _is_hidden(name: str) -> bool:
    # __MACOSX is what macOS adds to archives.
    return name.startswith(".") or name == "__MACOSX"


def _unique(files: Iterator[Path], report: Report) -> Iterator[Path]:
    seen = set()
    for file in files:
        real = os.path.realpath(file)
        if real in seen:
            report.skip("linked more than once", file.name)
        else:
            seen.add(real)
            yield file


def _is_read(file: Path, folder: Path, report: Report) -> bool:
    name = str(file.relative_to(folder))
    try:
        status = file.stat()
    except OSError:
        report.skip("broken link", name)
        return False
    if kind_of(file) is None:
        report.skip("of other kinds", _ending(file))
    elif not stat.S_ISREG(status.st_mode):
        report.skip("not regular", name)
    elif not status.st_size:
        report.skip("empty", name)
    else:
        return True
    return False


def _ending(file: Path) -> str:
    endings = file.suffixes[-2:] if file.suffix.lower() in COMPRESSED else file.suffixes[-1:]
    return "".join(endings) or "no ending"
