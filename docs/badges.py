"""Fill in the repository's address: `python docs/badges.py OWNER/NAME`, once it has a home on GitHub.

The repository does not know its address, so no badge is committed. This script adds badges of Binder and Colab to
README.md and to notebooks 00 to 03, the cell code that installs the kit on Colab, and the address in CITATION.cff.
It can run again with another address.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ("00_mini_models", "01_token_analysis", "02_position_transform", "03_train")
BEGIN, END = "<!-- badges -->", "<!-- end of badges -->"
# The settings cell starts with this code. Colab opens a notebook without the repository around it.
INSTALL = """\
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.exists("longrecipe"):  # on Colab: get the repository and install it
    subprocess.run(["git", "clone", "-q", "--depth", "1", "https://github.com/{repository}", "longrecipe"], check=True)
    os.chdir("longrecipe")
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "."], check=True)

"""
_INSTALLED = re.compile(re.escape(INSTALL).replace(re.escape("{repository}"), '[^"]+'))


def badges(repository: str, notebook: str) -> str:
    """The two badges of a notebook, as Markdown."""
    path = f"notebooks/{notebook}.ipynb"
    colab = f"https://colab.research.google.com/github/{repository}/blob/main/{path}"
    binder = f"https://mybinder.org/v2/gh/{repository}/main?urlpath=lab/tree/{path}"
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab}) "
        f"[![Open in Binder](https://mybinder.org/badge_logo.svg)]({binder})"
    )


def with_block(text: str, block: str) -> str:
    """A Markdown text with a block of badges below its first line, in place of an earlier one."""
    text = re.sub(rf"\n{BEGIN}\n.*?\n{END}\n", "", text, flags=re.DOTALL)
    title, _, rest = text.partition("\n")
    return f"{title}\n\n{BEGIN}\n{block}\n{END}\n{rest}"


def fill_notebook(path: Path, repository: str) -> None:
    """Add the badges to the first cell, and INSTALL to the second code cell, which checks the settings."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    first, settings = notebook["cells"][0], [c for c in notebook["cells"] if c["cell_type"] == "code"][1]
    first["source"] = with_block("".join(first["source"]), badges(repository, path.stem)).splitlines(keepends=True)
    code = _INSTALLED.sub("", "".join(settings["source"]))
    settings["source"] = (INSTALL.format(repository=repository) + code).splitlines(keepends=True)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def fill(root: Path, repository: str) -> None:
    """Write an address into the files below root. Raises ValueError if it does not have the form OWNER/NAME."""
    if not re.fullmatch(r"[\w-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is not the address of a repository: write OWNER/NAME, as in its URL.")
    for name in NOTEBOOKS:
        fill_notebook(root / "notebooks" / f"{name}.ipynb", repository)
    readme, citation = root / "README.md", root / "CITATION.cff"
    rows = "\n".join(f"- {name.replace('_', ' ')}: {badges(repository, name)}" for name in NOTEBOOKS)
    readme.write_text(with_block(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")
    about = re.sub(r"repository-code: .*\n", "", citation.read_text(encoding="utf-8"))
    about = about.replace("\nlicense:", f"\nrepository-code: https://github.com/{repository}\nlicense:", 1)
    citation.write_text(about, encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/badges.py OWNER/NAME")
    try:
        fill(ROOT, sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
