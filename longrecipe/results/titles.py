"""What the mean of the needle tasks is called: NIAH(M) for mini models, own needles for real ones."""

from dataclasses import replace
from typing import Any, TypeVar

import pandas as pd

from longrecipe.claims import Claims
from longrecipe.results.rows import NIAH_M

Titled = TypeVar("Titled", pd.DataFrame, Claims)


def needles_title(scale: str) -> str:
    """NIAH(M) at scale mini. Real models can be asked RULER's own NIAH(M), so ours gets a name of its own there."""
    return NIAH_M if scale == "mini" else "own needles"


def titled(table: Titled, scale: str) -> Titled:
    """A table or claims of a scale, with the name of the needles in its columns, rows and texts."""
    title = needles_title(scale)

    def renamed(name: Any) -> Any:
        return name.replace(NIAH_M, title) if isinstance(name, str) else name

    if isinstance(table, Claims):
        return Claims(replace(claim, text=renamed(claim.text), found=renamed(claim.found)) for claim in table)
    return table.rename(columns=renamed, index=renamed)
