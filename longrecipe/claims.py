"""Claims and their verdicts: what is claimed, what was found, its interval, and whether the claim holds.

Every notebook ends in a table of claims. The main claims come first; the others are folded:

>>> Claims([Claim("recall at 256 tokens is 0.85 or more", HOLDS, found="0.92")])
✓ holds  recall at 256 tokens is 0.85 or more  0.92
"""

import html
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from longrecipe.stats import Triple

HOLDS, FAILS, OPEN, NOT_MEASURED = "holds", "does not hold", "not settled", "not measured"
MARKS = {HOLDS: "✓", FAILS: "✗", OPEN: "?", NOT_MEASURED: "–"}


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict.

    text: what is claimed, a sentence without its full stop. verdict: one of MARKS. found: the number, in words.
    interval: its 95 % interval. main: whether the notebook's reader sees it first. label: the source of the number
    (measured, modelled or quoted), if a table has numbers of several kinds.
    """

    text: str
    verdict: str
    found: str = ""
    interval: str = ""
    main: bool = True
    label: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in MARKS:
            raise ValueError(f"verdict {self.verdict!r}: allowed are {', '.join(MARKS)}.")

    @property
    def mark(self) -> str:
        """The verdict with its sign, such as `✓ holds`."""
        return f"{MARKS[self.verdict]} {self.verdict}"

    @property
    def cells(self) -> tuple[str, ...]:
        """The claim as a row of COLUMNS."""
        return self.mark, self.text, self.found, self.interval, self.label


COLUMNS = ("verdict", "claim", "found", "95 % interval", "label")


class Claims(Sequence[Claim]):
    """Claims as a table, main claims first. Notebooks show it as HTML, with all other claims folded."""

    def __init__(self, claims: Iterable[Claim]) -> None:
        self._claims = tuple(sorted(claims, key=lambda claim: not claim.main))

    def __getitem__(self, index):
        return self._claims[index]

    def __len__(self) -> int:
        return len(self._claims)

    def __add__(self, other: Iterable[Claim]) -> "Claims":
        return Claims([*self, *other])

    def counts(self) -> str:
        """The number of claims and of each verdict, such as `8 claims: 7 hold, 1 does not hold`."""
        return _counts(self._claims)

    def _rows(self) -> Iterator[tuple[tuple[str, ...], list[tuple[str, ...]], list[Claim]]]:
        """Main claims, then all others: the columns that any claim uses, rows of cells, and the claims."""
        used = [i for i in range(len(COLUMNS)) if i < 2 or any(claim.cells[i] for claim in self)]
        for main in (True, False):
            claims = [claim for claim in self if claim.main == main]
            if claims:
                rows = [tuple(claim.cells[i] for i in used) for claim in claims]
                yield tuple(COLUMNS[i] for i in used), rows, claims

    def __repr__(self) -> str:
        rows = [row for _, group, _ in self._rows() for row in group]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)

    def _repr_html_(self) -> str:
        parts = []
        for columns, rows, claims in self._rows():
            table = _table(columns, rows)
            if not claims[0].main and len(parts):
                table = f"<details><summary>{_counts(claims, 'more ')}</summary>{table}</details>"
            parts.append(table)
        return "\n".join(parts)


def _counts(claims: Sequence[Claim], more: str = "") -> str:
    number = Counter(claim.verdict for claim in claims)
    plural = {HOLDS: "hold", FAILS: "do not hold"}
    each = [
        f"{number[verdict]} {plural.get(verdict, verdict) if number[verdict] > 1 else verdict}"
        for verdict in MARKS
        if number[verdict]
    ]
    return f"{len(claims)} {more}claim{'s' * (len(claims) > 1)}: {', '.join(each)}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def row(cells: Iterable[str], tag: str) -> str:
        first, *others = (html.escape(cell) for cell in cells)
        left = "".join(f'<{tag} style="text-align: left">{cell}</{tag}>' for cell in others)
        return f'<tr><{tag} style="text-align: left; white-space: nowrap">{first}</{tag}>{left}</tr>'

    body = "".join(row(cells, "td") for cells in rows)
    return f"<table><thead>{row(columns, 'th')}</thead><tbody>{body}</tbody></table>"


def judge(holds: bool | None) -> str:
    """The verdict on a claim that needs no interval; None: not measured."""
    return NOT_MEASURED if holds is None else HOLDS if holds else FAILS


def at_least(triple: Triple, least: float) -> str:
    """The verdict on "a mean is at least a number", from the mean with its interval (mean, low, high).

    The claim holds if the whole interval is on its side, does not hold if none of it is, and is not settled otherwise.
    It is not measured if there is no interval (NaN).
    """
    _, low, high = triple
    if math.isnan(low):
        return NOT_MEASURED
    return HOLDS if low >= least else FAILS if high < least else OPEN


def at_most(triple: Triple, most: float) -> str:
    """The verdict on "a mean is at most a number", as `at_least`."""
    mean, low, high = triple
    return at_least((-mean, -high, -low), -most)


def number(value: float, digits: int = 1) -> str:
    """A number with its decimals, with one more if it is below zero and would read "-0.0"; never "-0.0" itself.

    >>> number(2.25), number(-0.04), number(-0.0001)
    ('2.2', '-0.04', '0.0')
    """
    for places in (digits, digits + 1):
        text = f"{value:.{places}f}"
        if float(text) or not text.startswith("-"):
            return text
    return f"{0:.{digits}f}"


def interval(triple: Triple, digits: int = 1) -> str:
    """The interval of (mean, low, high) as `[low, high]`, empty if there is none."""
    _, low, high = triple
    return "" if math.isnan(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def difference(triple: Triple, other: str, *, margin: float = 0.0) -> tuple[str, str]:
    """A difference from another method in points, in words, and its interval in the same direction.

    margin: the points below the other that a claim allows; the words name it if the difference is below, within it.

    >>> difference((-0.7, -1.3, -0.1), "FLT", margin=2)
    ('0.7 points below FLT, within the margin of 2', '[0.1, 1.3]')
    >>> difference((-0.1, -0.9, 0.7), "FLT")
    ('-0.1 points, no clear difference from FLT', '[-0.9, 0.7]')
    """
    mean, low, high = triple
    if math.isnan(low):
        return "", ""
    if low <= 0 <= high:
        return f"{number(mean)} points, no clear difference from {other}", interval(triple)
    if mean > 0:
        return f"{number(mean)} points above {other}", interval(triple)
    within = f", within the margin of {margin:g}" if margin and low >= -margin else ""
    return f"{number(-mean)} points below {other}{within}", interval((-mean, -high, -low))
