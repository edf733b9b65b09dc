"""The campaign's table: what was tried in each part, and how it ended."""

from collections import Counter

OUTCOMES = ("survived", "refused with advice", "lost")
_counts: dict[str, Counter] = {}


def record(part: str, outcome: str) -> None:
    """Count one trial of a part; outcome: one of OUTCOMES."""
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome = {outcome!r}: allowed are {', '.join(OUTCOMES)}.")
    _counts.setdefault(part, Counter())[outcome] += 1


def lines() -> list[str]:
    """The table, with a line for each part and one for the sum; empty if nothing was tried."""
    if not _counts:
        return []
    width = max(map(len, _counts)) + 2
    head = "".join(f"{name:>{len(name) + 3}}" for name in ("tried", *OUTCOMES))
    rows = [f"{'part':{width}}{head}"]
    for part, counts in [*_counts.items(), ("all", sum(_counts.values(), Counter()))]:
        numbers = [counts.total(), *(counts[name] for name in OUTCOMES)]
        cells = (f"{n:>{len(name) + 3}}" for name, n in zip(("tried", *OUTCOMES), numbers, strict=True))
        rows.append(f"{part:{width}}" + "".join(cells))
    return rows
