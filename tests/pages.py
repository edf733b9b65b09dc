"""The pages of the repository: README.md, the documents in docs/, and the notebooks."""

from pathlib import Path

import nbformat

from longrecipe.system.paths import PACKAGE

ROOT = PACKAGE.parent
# By their path in the repository.
PAGES = {str(path.relative_to(ROOT)): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def text_of(path: Path) -> str:
    """The Markdown of a page, or of the Markdown cells of a notebook."""
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
