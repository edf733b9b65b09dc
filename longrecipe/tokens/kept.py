"""The sentences that each selection keeps: for a figure of one document, and as anchors per token over many."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from longrecipe.data.selection import SELECTIONS, select
from longrecipe.data.sentences import SentenceEnds, sentence_lengths


@dataclass(frozen=True)
class Kept:
    """A document after selection: its length, the places of its anchors, and starts and sizes of the kept sentences."""

    length: int
    anchors: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @property
    def kept_anchors(self) -> np.ndarray:
        """The places of the anchors that were kept."""
        last = np.searchsorted(self.starts, self.anchors, side="right") - 1
        return self.anchors[(last >= 0) & (self.anchors < (self.starts + self.sizes)[last])]

    @property
    def density(self) -> float:
        """Anchors kept for each token kept."""
        return len(self.kept_anchors) / int(self.sizes.sum())


def keep(
    documents: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    ends: SentenceEnds,
    *,
    n_tokens: int,
    rng: np.random.Generator,
) -> dict[str, list[Kept]]:
    """Apply every selection of `selection.SELECTIONS` but `shift`, which needs scores, to every document.

    Args: documents int64 [T]; masks bool [T], which tokens are anchors; ends, from `sentences.sentence_ends`; n_tokens
    to keep. Raises ValueError if documents and masks differ in number.
    """
    found: dict[str, list[Kept]] = {how: [] for how in SELECTIONS if how != "shift"}
    for ids, is_anchor in zip(documents, masks, strict=True):
        lengths = sentence_lengths(ids, ends)
        for how, each in found.items():
            _, sizes, starts = select(ids, lengths, is_anchor, n_tokens=n_tokens, rng=rng, how=how)
            each.append(Kept(len(ids), np.flatnonzero(is_anchor), starts, sizes))
    return found


def densities(kept: Mapping[str, Sequence[Kept]]) -> pd.DataFrame:
    """Anchors per 1,000 kept tokens of each selection, mean over documents, and their ratio to random selection.

    `anchors kept` is the share of a document's anchors, `segments kept` the number of segments; both are means too.
    """
    per_thousand = {how: 1000 * float(np.mean([each.density for each in some])) for how, some in kept.items()}
    whole = [1000 * len(each.anchors) / each.length for each in kept["first"]]
    rows = {**per_thousand, "whole document": float(np.mean(whole))}
    table = pd.DataFrame({"anchors per 1,000 tokens": rows}).rename_axis("selection")
    table["times random"] = table["anchors per 1,000 tokens"] / rows["random"]
    shares = {how: np.mean([len(k.kept_anchors) / max(len(k.anchors), 1) for k in some]) for how, some in kept.items()}
    table["anchors kept"] = [shares.get(how, 1.0) for how in rows]
    table["segments kept"] = [np.mean([len(k.sizes) for k in kept[how]]) if how in kept else np.nan for how in rows]
    return table
