"""How a trial ended: survived, refused with advice, or lost."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from campaign.children import Exit
from campaign.digests import differences
from campaign.disturbed import Place

# What the command line reports in one message with exit status 1, without a traceback.
FIXABLE = {"ValueError", "OSError", "ImportError", "MemoryError", "DoesNotFitError", "SkippedPositionsError"}
_ADVICE = re.compile(r"\b(delete|remove|empty it)\b", re.IGNORECASE)
_PATH = re.compile(r"/[^\s'\",:;()]+")


@dataclass(frozen=True)
class Verdict:
    """outcome: one of `table.OUTCOMES`; why: in words, for a report."""

    outcome: str
    why: str = ""


def judge(exit: Exit, wanted: dict[str, str], damaged: Path | None = None) -> Verdict:
    """Survived if a run finished with the wanted digest, else lost; refusals are for others to judge.

    damaged: the name of a file that may stay as it is, if the run did not read it.
    """
    if exit.how != "finished":
        return Verdict("lost", told(exit))
    if wrong := differences(wanted, exit.digest, damaged):
        return Verdict("lost", f"finished with other results: {'; '.join(wrong[:8])}")
    return Verdict("survived")


def told(exit: Exit) -> str:
    """How a run ended, in a few lines."""
    kind = exit.error.split(" ")[0]
    return f"{exit.how}: {kind}: {exit.message[:600]}\n{exit.trace[-1500:]}"


def is_fixable(exit: Exit) -> bool:
    """Whether a run ended with an error that the command line reports in one message."""
    return exit.how == "error" and not FIXABLE.isdisjoint(exit.error.split())


def advised_path(exit: Exit, place: Place, damaged: Path) -> Path | None:
    """What a refusal says to delete: the path after the word, or else one that is named, if it is or holds the damaged
    file."""
    advice = _ADVICE.search(exit.message)
    if not (is_fixable(exit) and advice):
        return None
    named = _PATH.findall(exit.message[advice.end() :]) + _PATH.findall(exit.message)
    for path in (Path(name.rstrip(".")) for name in named):
        # Not everything that is there: the cache as a whole is no advice.
        if path.exists() and damaged.is_relative_to(path) and path not in (*place.written, *place.written[0].parents):
            return path
    return None


def follow(path: Path) -> None:
    """Delete what a refusal says."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
