import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.tokens import (
    Analysis,
    Scored,
    TokenTypes,
    binned,
    claims,
    rank,
    rise_claims,
    rises,
    saved_claims,
    saved_rises,
    score_documents,
    types_by_class,
    types_by_token,
)

INTERVALS = ("share_of_top", "lift", "mean_shift")
COLUMNS = [
    *("type", "count", "share_of_all", "share_of_top", "share_of_top_low", "share_of_top_high", "lift", "lift_low"),
    *("lift_high", "mean_shift", "mean_shift_low", "mean_shift_high", "sum_shift", "frequent"),
]


def types_of(*type_of_id, names=("dull", "keen", "absent")):
    """Types by hand: the type of token ids 0, 1, 2, ..."""
    lookup = np.array(type_of_id)
    return TokenTypes("hand", names, lambda ids: lookup[ids])


def scored(ids, shift, before=5.0):
    """Documents whose ids and shifts are given, row by row; the first token of each has no shift."""
    found = []
    for i, (row, gained) in enumerate(zip(ids, shift, strict=True)):
        base = np.full(len(gained), before, dtype=np.float32)
        found.append(Scored(str(i), np.array(row), base, base + np.array(gained, dtype=np.float32)))
    return found


# Four documents of three tokens. Token 1 gains 9 and 7; token 3 gains 3 in the first; every other gains 1 or nothing.
IDS = [[0, 1, 3], [0, 2, 4], [0, 3, 1], [0, 4, 2]]
SHIFT = [[9, 3], [1, 0], [0, 7], [1, 1]]
DOCUMENTS = scored(IDS, SHIFT)
ONE_IS_KEEN = types_of(0, 1, 0, 0, 0)


def column(analysis, name):
    return analysis.ranking.set_index("type")[name].to_dict()


# cases worked out by hand


def test_types_are_ranked_by_lift():
    found = rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25)
    assert found.ranking.columns.tolist() == COLUMNS
    assert found.types is ONE_IS_KEEN
    names = ["type", "count", "share_of_all", "share_of_top", "lift", "mean_shift", "sum_shift", "frequent"]
    keen, dull = found.ranking[names].to_dict("records")
    assert tuple(keen.values()) == ("keen", 2, 0.25, 1.0, 4.0, 8.0, 16.0, True)
    assert tuple(dull.values()) == ("dull", 6, 0.75, 0.0, 0.0, 1.0, 6.0, True)
    # A type that does not occur has no row, but its column.
    assert found.by_position.to_dict("list") == {"dull": [0.0, 0.0], "keen": [1.0, 1.0]}
    assert found.by_position.index.tolist() == [1, 2] and found.by_position.index.name == "position"


def test_unused_types_are_not_in_the_ranking():
    found = rank(DOCUMENTS, types_of(3, 1, 3, 3, 3, names=("absent", "keen", "never", "dull")), top_share=0.5)
    halves = {"keen": [0.5, 0.5], "dull": [0.5, 0.5]}
    assert found.by_position.to_dict("list") == halves
    assert column(found, "count") == {"keen": 2, "dull": 6}


def test_shift_is_longer_minus_base():
    swapped = [Scored(each.key, each.ids, each.longer, each.base) for each in DOCUMENTS]
    assert column(rank(swapped, ONE_IS_KEEN, top_share=0.25), "sum_shift") == {"dull": -6.0, "keen": -16.0}


def test_top_tokens_are_chosen_at_every_position():
    found = rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.5)
    # Two of four a position: the keen token and the next largest shift.
    assert found.by_position[["dull", "keen"]].to_dict("list") == {"dull": [0.5, 0.5], "keen": [0.5, 0.5]}
    assert column(found, "share_of_top") == {"keen": 0.5, "dull": 0.5}
    assert column(found, "lift") == {"keen": 2.0, "dull": pytest.approx(2 / 3)}
    # However much larger all shifts of one position are.
    raised = rank(scored(IDS, np.add(SHIFT, [1000, 0])), ONE_IS_KEEN, top_share=0.5)
    assert column(raised, "share_of_top") == column(found, "share_of_top")
    pd.testing.assert_frame_equal(raised.by_position, found.by_position)


def test_frequent_type_has_no_lift():
    # Tokens 1, 2, 1, 3 are in the top: three of four are of type 1, as are six of all eight. No more than its share.
    found = rank(DOCUMENTS, types_of(0, 1, 1, 0, 1, names=("rare", "frequent")), top_share=0.5)
    assert column(found, "share_of_all") == {"rare": 0.25, "frequent": 0.75}
    assert column(found, "share_of_top") == {"rare": 0.25, "frequent": 0.75}
    assert column(found, "lift") == {"rare": 1.0, "frequent": 1.0}


def test_documents_of_different_lengths_count_up_to_their_end():
    # Position 1 is reached by four documents, 2 by three, 3 by one; half of them, rounded to even, are in the top.
    ids = [[0, 1], [0, 0, 1], [0, 0, 1, 1], [0, 1, 0]]
    shift = [[4], [3, 1], [2, 2, 9], [1, 3]]
    found = rank(scored(ids, shift), types_of(0, 1), top_share=0.5)
    assert found.by_position.index.tolist() == [1, 2], "of a single document no token is in the top"
    assert found.by_position.to_dict("list") == {"dull": [0.5, 0.5], "keen": [0.5, 0.5]}
    assert column(found, "count") == {"dull": 3, "keen": 5}
    assert column(found, "sum_shift") == {"dull": 8, "keen": 17}
    assert column(found, "share_of_top") == {"dull": 0.5, "keen": 0.5}
    # In whichever order they come.
    again = rank(scored(ids[::-1], shift[::-1]), types_of(0, 1), top_share=0.5)
    pd.testing.assert_frame_equal(again.by_position, found.by_position)


# the same, worked out anew


def plain_ranking(documents, type_of_id, top_share):
    """Shares and sums by loops over all tokens, as the docstring says."""
    tokens = [
        (t, float(each.shift[t - 1]), int(type_of_id[each.ids[t]]))
        for each in documents
        for t in range(1, len(each.ids))
    ]
    top = []
    for position in {t for t, *_ in tokens}:
        there = sorted((token for token in tokens if token[0] == position), key=lambda token: -token[1])
        top += there[: round(top_share * len(there))]
    rows = {}
    for kind in {kind for *_, kind in tokens}:
        shifts = [shift for _, shift, other in tokens if other == kind]
        of_all = len(shifts) / len(tokens)
        of_top = sum(other == kind for *_, other in top) / len(top)
        rows[kind] = (len(shifts), of_all, of_top, of_top / of_all, np.mean(shifts), np.sum(shifts))
    return rows


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(2, 9), min_size=6, max_size=12),
    top_share=st.sampled_from([0.13, 0.2, 0.5, 0.8]),
    seed=st.integers(0, 2**32 - 1),
)
def test_ranking_agrees_with_plain_loops(lengths, top_share, seed):
    rng, type_of_id = np.random.default_rng(seed), np.arange(12) % 4
    # Distinct shifts, so that there are no ties.
    ids = [rng.integers(0, 12, size=length) for length in lengths]
    shift = np.split(rng.permutation(sum(lengths) - len(lengths)) - 30.0, np.cumsum(np.array(lengths) - 1)[:-1])
    documents = scored(ids, shift)
    analysis = rank(documents, types_of(*type_of_id, names=("a", "b", "c", "d")), top_share, n_bootstrap=20, n_splits=1)
    expected = plain_ranking(documents, type_of_id, top_share)
    found = analysis.ranking
    assert (found["lift"].diff().dropna() <= 0).all()
    assert sorted(found["type"]) == sorted("abcd"[kind] for kind in expected)
    names = ["count", "share_of_all", "share_of_top", "lift", "mean_shift", "sum_shift"]
    for kind, row in expected.items():
        np.testing.assert_allclose(found.set_index("type").loc["abcd"[kind], names].astype(float), row, atol=1e-9)
    assert found["sum_shift"].sum() == pytest.approx(sum(float(each.shift.sum()) for each in documents))
    np.testing.assert_allclose(analysis.by_position.sum(axis=1), 1, rtol=1e-5)


# planted documents


def planted(rng, n_documents, length=40, strength=(0, 0.5, 1, 2, 4), noise=1.0, unit="token"):
    """Documents of random types of token, each type with its own mean shift."""
    ids = rng.integers(0, len(strength), size=(n_documents, length))
    size = (n_documents, 1) if unit == "document" else (n_documents, length - 1)
    shift = np.array(strength)[ids[:, 1:]] + noise * rng.normal(size=size)
    return scored(ids, shift)


FIVE = types_of(0, 1, 2, 3, 4, names=("none", "faint", "some", "strong", "most"))


def test_intervals_contain_the_point_and_narrow_with_more_documents(rng):
    few, many = (rank(planted(rng, count), FIVE).ranking.set_index("type") for count in (15, 240))
    for name in INTERVALS:
        for found in (few, many):
            low, high = found[f"{name}_low"], found[f"{name}_high"]
            assert (low <= found[name]).all() and (found[name] <= high).all()
            assert (low < high).sum() >= 4
        narrower = (many[f"{name}_high"] - many[f"{name}_low"]) / (few[f"{name}_high"] - few[f"{name}_low"])
        # A sixteenth of the documents: intervals four times as wide, were it not for chance.
        assert 1 / 7 < narrower.mean() < 1 / 2, name


@pytest.mark.parametrize("unit", ["token", "document"])
def test_width_of_intervals_follows_the_spread_over_documents(rng, unit):
    n_documents, n_tokens = 200, 24
    one = types_of(0, names=("all",))
    documents = planted(rng, n_documents, n_tokens + 1, (0,), unit=unit)
    (row,) = rank(documents, one, n_bootstrap=1000, n_splits=1).ranking.to_dict("records")
    # Tokens of one document that rise and fall together are no more than one draw.
    n_draws = n_documents * (n_tokens if unit == "token" else 1)
    width = row["mean_shift_high"] - row["mean_shift_low"]
    assert width == pytest.approx(2 * 1.96 / math.sqrt(n_draws), rel=0.2)
    assert (row["lift_low"], row["lift"], row["lift_high"]) == (1, 1, 1)


def test_intervals_and_stability_depend_only_on_the_seed(rng):
    documents = planted(rng, 30)
    first, again, other = (rank(documents, FIVE, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first.ranking, again.ranking)
    assert first.stability == again.stability
    points = [name for name in COLUMNS if not name.endswith(("_low", "_high"))]
    pd.testing.assert_frame_equal(first.ranking[points], other.ranking[points])
    for name in INTERVALS:
        assert (first.ranking[f"{name}_low"] != other.ranking[f"{name}_low"]).any()


def test_stability_is_high_for_planted_lifts_and_low_for_noise():
    strength = np.linspace(0, 4, 30)
    names = tuple(f"type {i}" for i in range(30))

    def stabilities(scale):
        return [
            rank(planted(np.random.default_rng(seed), 60, 60, scale * strength), types_of(*range(30), names=names))
            for seed in range(4)
        ]

    assert min(found.stability for found in stabilities(1)) > 0.9
    noise = [found.stability for found in stabilities(0)]
    assert abs(np.mean(noise)) < 0.25 and max(noise) < 0.5


def test_stability_leaves_out_rare_types(rng):
    # Three types that differ, and twenty that occur once or twice, whose lift is chance.
    documents = planted(rng, 60, 60, (0, 2, 4))
    for i, each in enumerate(documents[:40]):
        each.ids[5] = 3 + i % 20
    types = types_of(*range(23), names=tuple(f"type {i}" for i in range(23)))
    assert rank(documents, types, min_share=0.01).stability > 0.95
    assert rank(documents, types, min_share=0).stability < 0.8


def test_stability_of_too_few_types_is_nan():
    assert math.isnan(rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.5).stability)


# anchors


@pytest.fixture(scope="module")
def three_types():
    """common: most tokens and half of the top; keen: fewer, twice their share; once: one token, the largest shift."""
    ids = np.zeros((40, 11), dtype=int)
    ids[:10, 1:] = 1
    shift = np.random.default_rng(0).uniform(0, 1, size=(40, 10))
    # Ten of forty are in the top at each position: five keen ones and five common ones.
    shift[:5] += 3
    shift[10:15] += 3
    ids[20, 4], shift[20, 3] = 2, 9
    return rank(scored(ids, shift), types_of(0, 1, 2, names=("common", "keen", "once")), 0.25, min_share=0.01)


def test_anchors_by_lift_are_the_types_with_the_largest_lift(three_types):
    assert three_types.ranking["type"].tolist() == ["once", "keen", "common"]
    assert column(three_types, "frequent") == {"once": False, "keen": True, "common": True}
    # The most changed type of all is too rare to go by.
    assert three_types.anchors(1) == ["keen"]
    assert three_types.anchors(2) == three_types.anchors(9) == ["keen", "common"]


def test_anchors_by_share_are_the_types_with_the_largest_share():
    # Three in four tokens are dull and so are two of four in the top.
    ids = [[0, 1], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    shift = [[9], [8], [7], [6], [1], [1], [1], [1]]
    found = rank(scored(ids, shift), types_of(0, 1), top_share=0.5)
    assert column(found, "share_of_top") == {"keen": 0.25, "dull": 0.75}
    assert column(found, "lift") == {"keen": 2.0, "dull": pytest.approx(6 / 7)}
    assert found.anchors(1, "lift") == ["keen"] and found.anchors(1, "share") == ["dull"]
    assert found.anchors(2, "share") == ["dull", "keen"]


def test_min_share_is_a_share_of_all_tokens():
    for share, expected in ((0.25, ["keen", "dull"]), (0.26, ["dull"]), (0.9, [])):
        assert rank(DOCUMENTS, ONE_IS_KEEN, 0.25, min_share=share).anchors(2) == expected


def test_unknown_anchor_rule_error_lists_rules(three_types):
    with pytest.raises(ValueError, match="anchor rule 'sum': allowed are lift, share"):
        three_types.anchors(1, "sum")


def test_anchors_are_unclear_if_the_next_type_may_lead():
    found = analysis_of({"NUM": 2.0, "NOUN": 1.5, "VERB": 1.0}, {"NUM": 0.2, "NOUN": 0.5, "VERB": 0.3}, 1.0)
    for column in ("lift", "share_of_top"):
        found.ranking[f"{column}_low"] = found.ranking[column] - 0.2
        found.ranking[f"{column}_high"] = found.ranking[column] + 0.2
    assert found.unclear(1) is None and found.unclear(2) is None and found.unclear(3) is None
    assert found.unclear(1, "share") == "share of the top tokens of NOUN 0.50 [0.30, 0.70] and VERB 0.30 [0.10, 0.50]"
    found.ranking.loc[0, "lift_low"] = 1.7
    assert found.unclear(1) == "lift of NUM 2.00 [1.70, 2.20] and NOUN 1.50 [1.30, 1.70]"


# what is made of an analysis


@pytest.mark.parametrize(
    ("n_positions", "n_bins", "sizes"), [(12, 4, [3] * 4), (10, 4, [3, 2, 3, 2]), (3, 96, [1] * 3)]
)
def test_positions_are_binned_to_means_of_equal_stretches(rng, n_positions, n_bins, sizes):
    shares = rng.dirichlet(np.ones(3), size=n_positions)
    index = pd.Index(np.arange(1, n_positions + 1), name="position")
    found = binned(pd.DataFrame(shares, index=index, columns=["a", "b", "c"]), n_bins)
    parts = np.split(np.arange(n_positions), np.cumsum(sizes)[:-1])
    np.testing.assert_allclose(found.to_numpy(), [shares[part].mean(axis=0) for part in parts])
    np.testing.assert_allclose(found.index, [1 + part.mean() for part in parts])
    assert found.index.name == "position" and found.columns.tolist() == ["a", "b", "c"]


def analysis_of(lift, share, stability, mean_shift=None):
    """An analysis with these values for types that are all frequent."""
    frame = pd.DataFrame({"type": list(lift), "lift": lift.values(), "share_of_top": share.values(), "frequent": True})
    frame["mean_shift"] = (mean_shift or lift).values()
    for column in INTERVALS:
        frame[f"{column}_low"], frame[f"{column}_high"] = frame[column] - 0.5, frame[column] + 0.5
    return Analysis(ONE_IS_KEEN, frame, pd.DataFrame(), stability)


def test_each_claim_is_judged_by_its_number():
    good, bad = {"NUM": 3.0, "NOUN": 1.0}, {"NUM": 1.0, "NOUN": 3.0}
    fine = {"lift": good, "share": good, "mean_shift": good, "stability": 0.9}
    assert [claim.verdict for claim in claims(analysis_of(**fine), "NUM")] == ["holds"] * 4
    for changes, text, found in (
        ({"lift": bad}, "NUM has the largest lift", "1.00, NOUN 3.00"),
        ({"share": bad}, "NUM has the largest share of the top tokens", "1.00, NOUN 3.00"),
        ({"mean_shift": bad}, "NUM has the largest mean shift", "1.00, NOUN 3.00"),
        ({"stability": 0.89}, "lifts of two halves", "0.89"),
        ({"stability": float("nan")}, "lifts of two halves", "nan"),
    ):
        (failed,) = [c for c in claims(analysis_of(**fine | changes), "NUM") if c.verdict == "does not hold"]
        assert failed.text.startswith(text) and failed.found == found


def test_rank_can_count_a_range_of_positions():
    whole = rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25)
    second = rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25, first_position=2)
    first = rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25, last_position=1)
    assert column(first, "sum_shift") == {"keen": 9.0, "dull": 2.0}
    assert column(second, "sum_shift") == {"keen": 7.0, "dull": 4.0}
    assert first.by_position.index.tolist() == [1] and second.by_position.index.tolist() == [2]
    pd.testing.assert_frame_equal(whole.by_position, pd.concat([first.by_position, second.by_position]))
    with pytest.raises(ValueError, match="positions 3 to 2: documents have positions 1 to 2"):
        rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25, first_position=3)


@pytest.mark.parametrize(("first", "last"), [(1, 4), (3, None), (2, 6), (5, 5)])
def test_range_of_positions_gives_the_ranking_of_cut_documents(rng, first, last):
    documents = planted(rng, 20, 9)
    found = rank(documents, FIVE, first_position=first, last_position=last)
    # The token before the first position has no shift of its own.
    part = slice(first - 1, last)
    cut = [
        Scored(each.key, each.ids[first - 1 :][: len(each.base[part]) + 1], each.base[part], each.longer[part])
        for each in documents
    ]
    expected = rank(cut, FIVE)
    pd.testing.assert_frame_equal(found.ranking, expected.ranking)
    assert found.by_position.index.tolist() == list(range(first, (last or 8) + 1))
    np.testing.assert_array_equal(found.by_position, expected.by_position)


def test_saved_claims_hold_if_they_hold_for_every_seed_and_leave_out_rare_types():
    rows = [
        (3, "all", "NUM", 2.0, 1.0, True),
        (4, "all", "NUM", 3.0, 2.0, True),
        *((seed, "beyond", "NUM", 1.2, 3.0, True) for seed in (3, 4)),
        *((seed, positions, "PUNCT", 1.5, 1.5, True) for seed in (3, 4) for positions in ("all", "beyond")),
        *((seed, positions, "INTJ", 9.0, 9.0, False) for seed in (3, 4) for positions in ("all", "beyond")),
    ]
    rankings = pd.DataFrame(rows, columns=["seed", "positions", "type", "lift", "mean_shift", "frequent"])
    rankings = rankings.assign(by="pos", share_of_top=rankings["lift"])
    found = {claim.text: (claim.verdict, claim.found, claim.main) for claim in saved_claims(rankings, "NUM", "here: ")}
    assert len(found) == 6
    assert found["here: NUM has the largest lift"] == ("holds", "2.00, PUNCT 1.50; 3.00, PUNCT 1.50", True)
    lost = ("does not hold", "1.00, PUNCT 1.50; 2.00, PUNCT 1.50", True)
    assert found["here: NUM has the largest mean shift"] == lost
    beyond = ("does not hold", "1.20, PUNCT 1.50; 1.20, PUNCT 1.50", False)
    assert found["here: beyond the window, NUM has the largest lift"] == beyond


def test_saved_claims_of_one_seed_have_its_interval():
    rows = [("NUM", 0.7, 0.6, 0.8), ("SYM", 2.2, 2.1, 2.3)]
    columns = ["type", *(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high"))]
    rankings = pd.DataFrame([(name, *values * len(INTERVALS)) for name, *values in rows], columns=columns)
    rankings = pd.concat([rankings.assign(positions=where) for where in ("all", "beyond")], ignore_index=True)
    claims = saved_claims(rankings.assign(by="pos", seed=0, frequent=True), "NUM")
    assert {(claim.verdict, claim.found, claim.interval) for claim in claims} == {
        ("does not hold", "0.70, SYM 2.20", "[0.60, 0.80]")
    }


# from inside the window to beyond it


def random_documents(rng, count=12, length=41, n_types=4):
    ids = rng.integers(0, n_types, (count, length))
    return scored(ids, rng.normal(size=(count, length - 1)) + ids[:, 1:])


FOUR = types_of(*range(4), names=("a", "b", "c", "d"))


def test_a_rise_is_the_difference_of_mean_shifts_beyond_and_inside():
    found = rises(DOCUMENTS, ONE_IS_KEEN, 1).set_index("type")
    assert found.index.tolist() == ["dull", "keen"]
    assert found.loc["keen", ["inside", "beyond", "rise"]].tolist() == [9, 7, -2]
    assert found.loc["dull", ["inside", "beyond", "rise"]].tolist() == pytest.approx([2 / 3, 4 / 3, 2 / 3])


def test_what_changes_a_type_at_all_positions_alike_does_not_count(rng):
    documents = random_documents(rng)
    shifted = scored([each.ids for each in documents], [each.shift + 5 * (each.ids[1:] == 2) for each in documents])
    found, other = (rises(each, FOUR, 20) for each in (documents, shifted))
    numbers = ["rise", "rise_low", "rise_high"]
    np.testing.assert_allclose(other[numbers], found[numbers], atol=1e-5)
    assert len(found) == 4 and (found["rise_low"] < found["rise"]).all() and (found["rise"] < found["rise_high"]).all()
    assert found["rise"].is_monotonic_decreasing and not np.allclose(other["inside"], found["inside"])


def test_both_parts_draw_the_same_documents(rng):
    """Documents differ by far more than their parts, which are equal, so the interval has no width."""
    half = random_documents(rng, length=21)
    ids = [np.r_[each.ids, each.ids[1:]] for each in half]
    found = rises(scored(ids, [np.tile(each.shift + 50 * i, 2) for i, each in enumerate(half)]), FOUR, 20)
    assert found[["rise", "rise_low", "rise_high"]].to_numpy() == pytest.approx(0, abs=1e-4) and len(found) == 4


def test_documents_may_end_inside_the_window_and_rare_types_are_left_out():
    ids = [[0, 0, 1, 0], [0, 1], [0, 0, 0, 1]]
    documents = [one for row in ids for one in scored([row], [np.arange(1.0, len(row))])]
    found = rises(documents, types_of(0, 1), 2, min_share=0.3).set_index("type")
    assert found[["inside", "beyond", "rise"]].to_dict("index") == {
        "dull": {"inside": pytest.approx(4 / 3), "beyond": 3, "rise": pytest.approx(5 / 3)},
        "keen": {"inside": 1.5, "beyond": 3, "rise": 1.5},
    }
    assert rises(documents, types_of(0, 1), 2, min_share=0.5)["type"].tolist() == ["dull"]


@pytest.mark.parametrize("documents", [DOCUMENTS, []])
def test_no_position_beyond_the_window_is_an_error(documents):
    with pytest.raises(ValueError, match=r"window = 2: documents have positions 1 to \d, and none beyond"):
        rises(documents, ONE_IS_KEEN, 2)


def test_rises_of_saved_analyses_are_those_of_the_scores(rng):
    documents, saved = random_documents(rng), []
    for seed in (0, 1):
        for positions, first in (("all", 1), ("beyond", 21)):
            ranking = rank(documents, FOUR, first_position=first).ranking
            saved.append(ranking.assign(by="pos", positions=positions, seed=seed))
            saved.append(ranking.assign(by="class", positions=positions, seed=seed, sum_shift=0.0))
    found, expected = saved_rises(pd.concat(saved)), rises(documents, FOUR, 20)
    for seed in (0, 1):
        rows = found[found["seed"] == seed].drop(columns="seed").reset_index(drop=True)
        columns = ["type", "inside", "beyond", "rise"]
        pd.testing.assert_frame_equal(rows[columns], expected[columns], check_exact=False, atol=1e-5)
        assert rows.columns.tolist() == expected.columns.tolist() and rows[["rise_low", "rise_high"]].isna().all(
            axis=None
        )


def test_numerals_rise_most_if_they_do_for_every_seed():
    rows = pd.DataFrame({"type": ["NUM", "SYM"], "rise": [1.8, 1.2], "rise_low": [1.3, 1.1], "rise_high": [2.3, 1.3]})
    (claim,) = rise_claims(rows.assign(seed=0), "NUM", "here: ")
    assert claim.text == "here: from inside the window to beyond it, the mean shift of NUM rises most"
    assert (claim.verdict, claim.found, claim.interval) == ("holds", "1.80, SYM 1.20", "[1.30, 2.30]")
    both = pd.concat([rows.assign(seed=0), rows.assign(seed=1, rise=[1.0, 1.1])])
    (claim,) = rise_claims(both, "NUM")
    assert (claim.verdict, claim.found, claim.interval) == ("does not hold", "1.80, SYM 1.20; 1.00, SYM 1.10", "")
    assert rise_claims(both.iloc[:0], "NUM") == []


def test_a_text_without_numerals_measures_no_claim_about_them():
    found = claims(rank(DOCUMENTS, ONE_IS_KEEN, top_share=0.25), "NUM")
    assert [claim.verdict for claim in found[:-1]] == ["not measured"] * 3
    assert {claim.found for claim in found[:-1]} == {"NUM is rare in this text"}
    (claim,) = rise_claims(pd.DataFrame({"type": ["SYM"], "rise": [1.0], "seed": 0}), "NUM")
    assert claim.verdict == "not measured"


# refusals


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.12])
def test_too_few_documents_error_says_how_many_are_needed(share):
    with pytest.raises(ValueError, match=f"4 documents at top_share = {share} leave no token.*at least") as error:
        rank(DOCUMENTS, ONE_IS_KEEN, top_share=share)
    enough = int(str(error.value).split("at least ")[1].split()[0])
    rank((DOCUMENTS * enough)[:enough], ONE_IS_KEEN, top_share=share, n_bootstrap=2, n_splits=1)
    with pytest.raises(ValueError, match=f"{enough - 1} documents at"):
        rank((DOCUMENTS * enough)[: enough - 1], ONE_IS_KEEN, top_share=share)


def test_rank_without_documents_is_an_error():
    with pytest.raises(ValueError, match="no scored documents"):
        rank([], ONE_IS_KEEN)


# two models


def test_a_real_pair_of_models(make_tiny, tokenizer, rng, tmp_path):
    base, longer = make_tiny(0), make_tiny(1)
    documents = [(str(i), rng.integers(0, 1024, size=16)) for i in range(20)]
    found = score_documents(base, longer, documents, tmp_path / "scores")
    analysis = rank(found, types_by_class(tokenizer))
    assert analysis.by_position.shape == (15, len(analysis.ranking))
    np.testing.assert_allclose(analysis.by_position.sum(axis=1), 1, rtol=1e-5)
    assert analysis.ranking["count"].sum() == 20 * 15
    assert analysis.ranking["sum_shift"].sum() == pytest.approx(sum(each.shift.sum() for each in found), rel=1e-3)
    # One analysis sorts the same tokens in many ways.
    by_token = rank(found, types_by_token(tokenizer), n_bootstrap=10, n_splits=1)
    assert len(by_token.ranking) == len(np.unique([each.ids[1:] for each in found]))
    assert by_token.ranking["sum_shift"].sum() == pytest.approx(analysis.ranking["sum_shift"].sum(), rel=1e-3)
    same = score_documents(base, base, documents, tmp_path / "same")
    assert (rank(same, types_by_class(tokenizer)).ranking["mean_shift"] == 0).all()
