"""Checks of a run's text after it is loaded: whether it is long enough, and whether its samples reach far enough."""

import logging

import numpy as np

from longrecipe.positions import find
from longrecipe.recipe.context_scores import needs_probe
from longrecipe.recipe.draws import segment_counts
from longrecipe.recipe.run_text import RunText
from longrecipe.settings import Params

log = logging.getLogger(__name__)


def check_loaded(p: Params, text: RunText) -> None:
    """Raise ValueError if a run cannot be trained or measured on its text."""
    check_held_out(p, text)
    check_amount(p, text)
    check_reach(p, text)


def check_held_out(p: Params, text: RunText) -> None:
    """Raise ValueError if the held-out text is too short to measure on, and warn if documents will repeat it."""
    held_out = len(text.long.held_out)
    shortest, longest = p.measured_lengths[0], p.measured_lengths[-1]
    if held_out < shortest:
        raise ValueError(
            f"{held_out:,} tokens of the text are held out, but the shortest length to measure at is {shortest:,}: "
            "add text (-p text FOLDER), or a shorter length in eval_lengths."
        )
    if held_out < longest:
        log.warning(
            "%s tokens of the text are held out: documents of up to %s tokens will repeat them; add text (-p text).",
            f"{held_out:,}",
            f"{longest:,}",
        )


def check_amount(p: Params, text: RunText) -> None:
    """Raise ValueError if the text is shorter than a stage of the run needs at least."""
    there = len(text.long.train)
    if text.facts is not None or find(p.method).positions is None:
        return
    needs = {f"a document of target_length = {p.target_length}": p.target_length}
    if needs_probe(p):
        scored = p.analysis_documents * (p.analysis_length or p.probe_window)
        needs["the token analysis (analysis_documents of analysis_length, and a sample of H')"] = scored + (
            p.probe_length or p.probe_window
        )
    for name, length in needs.items():
        if there < length:
            raise ValueError(
                f"text = {p.text!r}: {there:,} tokens to train on, and {name} needs {length:,}: add text, or use "
                "shorter lengths."
            )


def check_reach(p: Params, text: RunText) -> None:
    """Raise ValueError if the samples of a run have too few segments for positions far into the target length.

    This only concerns methods that move sentences. With N segments in n tokens, the largest of N - 1 random offsets is
    on average (N - 1) / N of the T - n free positions. PoSE, which needs no sentences, has two chunks in each sample
    and so reaches one half; a text whose samples reach less on average is refused. If some samples have no jump, a
    warning is logged. Only a few samples are drawn, which takes seconds for a text of any size.
    """
    if find(p.method).text != "selected" or p.train_length >= p.target_length:
        return
    counts = segment_counts(p, text)
    single, name = int((counts == 1).sum()), p.text or "the embedded English"
    found = (
        f"text = {name!r}: {single} of {len(counts)} samples of {p.train_length:,} tokens are a single segment "
        f"without a sentence end or newline, at positions 0 to {p.train_length - 1:,} of {p.target_length:,}"
    )
    if np.mean((counts - 1) / counts) < 0.5:
        raise ValueError(
            f"{found} (median number of segments: {np.median(counts):.0f}). Long positions need jumps between "
            "segments: use text with sentence ends or newlines, split long lines, or set `method: pose`, "
            "which needs neither."
        )
    if single:
        log.warning("%s: these train no long positions; split long lines, or use text with sentence ends.", found)
