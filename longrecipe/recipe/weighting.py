"""How a run chooses and weighs its long samples: by anchors, and by scores of H and H'."""

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from longrecipe import tokens
from longrecipe.data import weights
from longrecipe.data.samples import WEIGHTS
from longrecipe.positions import find
from longrecipe.recipe.context_scores import ContextScores, by_shift
from longrecipe.recipe.draws import AnchorMask, Choice
from longrecipe.settings import Params

log = logging.getLogger(__name__)
# Samples that are scored together; `tokens.in_batches` reads fewer at a time if they are long.
_TOGETHER = 16


def warned(analysis: tokens.Analysis, p: Params) -> tokens.Analysis:
    """The analysis of a run, after a warning if it does not settle which types are anchors: a wrong anchor costs more
    than the analysis saves, above all with loss weights."""
    if unclear := analysis.unclear(p.anchor_count, p.anchor_rule):
        log.warning(
            "anchors = %s, but the intervals of %s overlap: another draw may choose other anchors. Score more text "
            "(analysis_documents), or train H' longer (probe_steps).",
            ", ".join(analysis.anchors(p.anchor_count, p.anchor_rule)),
            unclear,
        )
    return analysis


def choice_of(p: Params, anchors: AnchorMask | None, scores: ContextScores | None) -> Choice:
    """What a run chooses sentences and documents by, and how it weighs tokens.

    Args:
        anchors: which tokens are anchors, from the token analysis; None without one.
        scores: of H and H'; None for a run that does not need them (see `context_scores.needs_scores`).
    """
    selects = find(p.method).text == "selected" and p.selection in ("anchored", "density")
    return Choice(
        anchors if selects else None,
        # The first token has no shift.
        shift=(lambda ids: np.append(0.0, scores.shift(ids[None])[0])) if by_shift(p) else None,
        gain=scores.gain if p.document_candidates > 1 else None,
        weigh=None if p.loss_weight == "none" else functools.partial(weighted, p, anchors=anchors, scores=scores),
    )


def weighted(
    p: Params, rows: Iterable[dict], *, anchors: AnchorMask | None, scores: ContextScores | None
) -> Iterator[dict]:
    """Stage-1 samples with loss_weights, a weight for each token; that of the first, which has no loss, is 0.

    Args:
        rows: all of one length.
        anchors: which tokens are anchors, for `anchor`.
        scores: for the other schemes.

    Raises ValueError if the scheme needs anchors and there are none.
    """
    if p.loss_weight == "anchor" and anchors is None:
        raise ValueError("loss_weight = 'anchor' needs anchor tokens: run the token analysis first.")
    weigh, rows = _weigher(p, anchors, scores), iter(rows)
    while some := list(itertools.islice(rows, _TOGETHER)):
        found = weigh(np.stack([np.asarray(row["input_ids"], dtype=np.int64) for row in some]))
        for row, each in zip(some, found, strict=True):
            yield row | {WEIGHTS: np.concatenate([[0], each]).astype(np.float32)}


def _weigher(p: Params, anchors: AnchorMask | None, scores: ContextScores | None) -> Callable[[np.ndarray], np.ndarray]:
    """From samples, ids [B, n], to the weights of their tokens 1..n-1, [B, n - 1]."""
    strength = p.weight_strength
    return {
        "anchor": lambda ids: weights.anchor_weights(np.stack([anchors(each) for each in ids])[:, 1:], strength),
        "shift": lambda ids: weights.shift_weights(scores.shift(ids), strength),
        "longce": lambda ids: weights.longce_weights(*scores.losses(ids), strength, context=scores.context),
        "helm": lambda ids: weights.helm_weights(*scores.losses(ids), strength),
    }[p.loss_weight]
