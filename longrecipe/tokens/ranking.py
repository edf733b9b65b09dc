"""Rank token types by how much their scores change, with intervals, and choose the anchor types for selection."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from longrecipe import stats
from longrecipe.claims import interval
from longrecipe.tokens.scores import Scored
from longrecipe.tokens.types import TokenTypes

# The column of the ranking that each rule for anchors goes by.
_COLUMNS = {"lift": "lift", "share": "share_of_top"}
ANCHOR_RULES = tuple(_COLUMNS)
# What claims about the leading type go by.
RANKED_BY = {"lift": "lift", "mean_shift": "mean shift", "share_of_top": "share of the top tokens"}


@dataclass(frozen=True)
class Analysis:
    """What the token analysis found.

    ranking: one row for each type that occurs, by lift: count, share_of_all, share_of_top, lift, mean_shift, sum_shift
    (eq. 3), the 95 % intervals of share_of_top, lift and mean_shift (`_low`, `_high`), and frequent: whether it makes
    up min_share of all tokens. by_position: shares among the top tokens, one row for each position index 1..L-1, one
    column for each type that occurs. stability: Spearman's correlation of the lifts between halves of the documents.
    """

    types: TokenTypes
    ranking: pd.DataFrame
    by_position: pd.DataFrame
    stability: float

    def anchors(self, count: int, rule: str = "lift") -> list[str]:
        """The `count` types that selection looks for.

        rule `lift`: those whose share among the top tokens exceeds their share of all tokens by the largest factor;
        `share`: those with the largest share among the top tokens, as in the paper's figure, which also favours types
        that are merely frequent. Types that are not `frequent` are left out. Raises ValueError for an unknown rule.
        """
        return self._led_by(rule)["type"].head(count).tolist()

    def unclear(self, count: int, rule: str = "lift") -> str | None:
        """What makes the choice of anchors unclear, in words: the 95 % intervals of the last anchor and of the first
        other type overlap. None if they do not, or if there is no other type."""
        rows, column = self._led_by(rule), _COLUMNS[rule]
        if len(rows) <= count:
            return None
        last, other = (rows.iloc[i] for i in (count - 1, count))
        if last[f"{column}_low"] > other[f"{column}_high"]:
            return None
        triples = {row["type"]: tuple(row[[column, f"{column}_low", f"{column}_high"]]) for row in (last, other)}
        found = (f"{name} {triple[0]:.2f} {interval(triple, 2)}" for name, triple in triples.items())
        return f"{RANKED_BY[column]} of {' and '.join(found)}"

    def _led_by(self, rule: str) -> pd.DataFrame:
        if rule not in ANCHOR_RULES:
            raise ValueError(f"anchor rule {rule!r}: allowed are {', '.join(ANCHOR_RULES)}.")
        return self.ranking[self.ranking["frequent"]].sort_values(_COLUMNS[rule], ascending=False, kind="stable")


def binned(by_position: pd.DataFrame, n_bins: int = 96) -> pd.DataFrame:
    """Shares by position, averaged over n_bins equal stretches of positions; the index is the mean of each."""
    group = np.arange(len(by_position)) * n_bins // max(len(by_position), n_bins)
    return by_position.reset_index().groupby(group).mean().set_index("position")


def rank(
    scored: Sequence[Scored],
    types: TokenTypes,
    top_share: float = 0.2,
    *,
    min_share: float = 0.001,
    n_bootstrap: int = 200,
    n_splits: int = 20,
    seed: int = 0,
    first_position: int = 1,
    last_position: int | None = None,
) -> Analysis:
    r"""Rank token types by how much they change from H to H' (paper, section 4.1, eq. 3 and Figure 4).

    At every position index t the top_share of tokens with the largest shift over the documents that reach t are the
    top tokens. A type's share among them is compared with its share of all tokens,
    $lift_k = \frac{share\ of\ k\ among\ top}{share\ of\ k\ among\ all}$, because a frequent type has a high share in
    any case. Eq. 3 is the sum of a type's shift over its occurrences; the ranking has the mean too.

    Intervals are 95 % percentile bootstraps over documents with the top tokens fixed; stability is the mean of
    Spearman's correlation of lifts over random splits of the documents in two halves, each with its own top tokens,
    without types below min_share.

    Args: scored, from `score_documents`; types, from `types_by_*`; seed of bootstrap and splits; first_position and
    last_position: the range of position indices to count. Returns an Analysis.
    Raises ValueError if no position has enough documents for one top token.
    Example: four documents, top_share 0.25: at each position the one token with the largest shift of the four.
    """
    if not scored:
        raise ValueError("no scored documents to rank.")
    table = _Table.of(scored, types, first_position, last_position)
    reach = (table.shift > -np.inf).sum(axis=0)
    if np.rint(top_share * reach).max() < 1:
        raise ValueError(
            f"{len(scored)} documents at top_share = {top_share} leave no token in the top; "
            f"give at least {int(0.5 / top_share) + 1} documents."
        )
    rng = np.random.default_rng(seed)
    everyone = np.ones((1, len(scored)))
    top = table.top(everyone[0], top_share)
    point = {name: values[0] for name, values in table.measures(top, everyone).items()}
    weights = stats.bootstrap_weights(len(scored), n_bootstrap, rng)
    for name, draws in table.measures(top, weights).items():
        if name in ("share_of_top", "lift", "mean_shift"):
            point[f"{name}_low"], point[f"{name}_high"] = stats.percentile_interval(draws)
    frequent = point["share_of_all"] >= min_share
    frame = pd.DataFrame({"type": table.names, **point, "frequent": frequent}).astype({"count": np.int64})
    columns = ["type", "count", "share_of_all", "share_of_top", "share_of_top_low", "share_of_top_high"]
    columns += ["lift", "lift_low", "lift_high", "mean_shift", "mean_shift_low", "mean_shift_high", "sum_shift"]
    ranking = frame[[*columns, "frequent"]].sort_values("lift", ascending=False, kind="stable", ignore_index=True)
    stability = table.stability(frequent, top_share, n_splits, rng)
    return Analysis(types, ranking, table.by_position(top), stability)


def rises(
    scored: Sequence[Scored],
    types: TokenTypes,
    window: int,
    *,
    min_share: float = 0.001,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> pd.DataFrame:
    r"""How far the mean shift of each type rises from positions inside the base's window W to those beyond it.

    $rise_k = \bar\Delta_k(t > W) - \bar\Delta_k(t \le W)$, a difference of differences. From its training H' learns
    about the text and a larger RoPE base as well as about length. What changes a type at all positions alike cancels;
    what remains depends on the position. This measure is the kit's own.

    Args: window in tokens; n_bootstrap and seed of the intervals. Returns a row for each type with min_share of the
    tokens of both parts, by falling rise: type, inside, beyond and rise, in units of the score, and the 95 % bootstrap
    interval rise_low and rise_high, for which both parts draw the same documents. Raises ValueError if no document has
    a position beyond the window.
    """
    length = max((len(each.ids) for each in scored), default=1) - 1
    if length <= window:
        raise ValueError(f"window = {window}: documents have positions 1 to {length}, and none beyond the window.")
    # The first row is that of all documents.
    weights = stats.bootstrap_weights(len(scored), n_bootstrap, np.random.default_rng(seed))
    weights, means = np.concatenate([np.ones((1, len(scored))), weights]), {}
    kept = np.ones(len(types.names), dtype=bool)
    pairs = [(types.of(each.ids)[1:], each.shift) for each in scored]
    for part, within in {"inside": slice(window), "beyond": slice(window, None)}.items():
        counts = weights @ np.stack([np.bincount(kinds[within], minlength=len(kept)) for kinds, _ in pairs])
        sums = weights @ np.stack([np.bincount(kinds[within], shift[within], len(kept)) for kinds, shift in pairs])
        with np.errstate(divide="ignore", invalid="ignore"):
            means[part] = sums / counts
        kept &= counts[0] >= max(min_share * counts[0].sum(), 1)
    rise = (means["beyond"] - means["inside"])[:, kept]
    low, high = stats.percentile_interval(rise[1:])
    rows = {part: values[0][kept] for part, values in means.items()}
    rows |= {"rise": rise[0], "rise_low": low, "rise_high": high}
    found = pd.DataFrame({"type": np.array(types.names)[kept], **rows})
    return found.sort_values("rise", ascending=False, kind="stable", ignore_index=True)


@dataclass(frozen=True)
class _Table:
    """Shift, type and document of every token, sorted by falling shift at every position, all [D, L - 1].

    After the end of a document the shift is -inf and the type -1. Types are indices into names, those that occur;
    first: the position of the first column.
    """

    first: int
    names: tuple[str, ...]
    shift: np.ndarray
    types: np.ndarray
    document: np.ndarray

    @classmethod
    def of(cls, scored: Sequence[Scored], types: TokenTypes, first: int, last: int | None) -> "_Table":
        length = max(len(each.ids) for each in scored) - 1
        if not 1 <= first <= min(length, last or length):
            raise ValueError(f"positions {first} to {last or length}: documents have positions 1 to {length}.")
        shift = np.full((len(scored), length), -np.inf, dtype=np.float32)
        kinds = np.full((len(scored), length), -1)
        for row, each in enumerate(scored):
            shift[row, : len(each.shift)] = each.shift
            kinds[row, : len(each.shift)] = types.of(each.ids)[1:]
        shift, kinds = shift[:, first - 1 : last], kinds[:, first - 1 : last]
        present = np.unique(kinds[kinds >= 0])
        kinds = np.where(kinds < 0, -1, np.searchsorted(present, kinds))
        order = np.argsort(-shift, axis=0, kind="stable")
        ordered = (np.take_along_axis(values, order, axis=0) for values in (shift, kinds))
        return cls(first, tuple(types.names[i] for i in present), *ordered, order)

    def top(self, counted: np.ndarray, top_share: float) -> np.ndarray:
        """Which tokens are in the top of their position among the counted documents; counted [D] is 1 or 0."""
        weight = np.where(self.types >= 0, counted[self.document], 0)
        passed = np.cumsum(weight, axis=0)
        return (weight > 0) & (passed <= np.rint(top_share * passed[-1]))

    def measures(self, top: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of the ranking, [B, K], with each document counted as often as weights [B, D] say."""
        used = self.types >= 0

        def by_type(values: np.ndarray) -> np.ndarray:
            size = len(self.shift), len(self.names)
            cells = self.document[used] * size[1] + self.types[used]
            return weights @ np.bincount(cells, values[used].astype(np.float64), minlength=size[0] * size[1]).reshape(
                size
            )

        count, in_top, total = by_type(used), by_type(top), by_type(self.shift)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_of_all = count / count.sum(axis=1, keepdims=True)
            share_of_top = in_top / in_top.sum(axis=1, keepdims=True)
            lift, mean_shift = share_of_top / share_of_all, total / count
        return {
            "count": count,
            "share_of_all": share_of_all,
            "share_of_top": share_of_top,
            "lift": lift,
            "mean_shift": mean_shift,
            "sum_shift": total,
        }

    def by_position(self, top: np.ndarray) -> pd.DataFrame:
        """Share of each type among the top tokens by position 1..L-1, without positions that have no top tokens."""
        length = top.shape[1]
        columns = np.broadcast_to(np.arange(length), top.shape)[top]
        cells = np.bincount(self.types[top] * length + columns, minlength=len(self.names) * length)
        cells, size = cells.reshape(-1, length), top.sum(axis=0)
        filled = size > 0
        shares = (cells[:, filled] / size[filled]).T.astype(np.float32)
        return pd.DataFrame(
            shares, index=pd.Index(np.flatnonzero(filled) + self.first, name="position"), columns=list(self.names)
        )

    def stability(self, frequent: np.ndarray, top_share: float, n_splits: int, rng: np.random.Generator) -> float:
        """Mean of Spearman's correlation of lifts between random halves of the documents, over n_splits splits."""
        n, found = len(self.shift), []
        for _ in range(n_splits):
            half = np.zeros(n)
            half[rng.permutation(n)[: n // 2]] = 1
            lifts = [self.measures(self.top(w, top_share), w[None])["lift"][0][frequent] for w in (half, 1 - half)]
            found.append(stats.rank_correlation(*lifts))
        return float(np.nanmean(found)) if np.isfinite(found).any() else float("nan")
