import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrecipe.positions import METHODS, flt, longrecipe, pose, rpes

FUNCTIONS = {name: method.positions for name, method in METHODS.items() if method.positions is not None}
FIGURE_3 = Path(__file__).resolve().parents[1] / "results" / "paper" / "fig3_token_distance.csv"

every_method = pytest.mark.parametrize("name", FUNCTIONS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def samples(draw):
    """Segment lengths, single tokens and one segment among them, and a target that may leave no slack at all."""
    lengths = draw(st.lists(st.integers(1, 12) | st.just(1), min_size=1, max_size=20))
    return lengths, sum(lengths) + draw(st.integers(0, 300) | st.just(0))


def draws(function, lengths, target, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([function(lengths, target, rng) for _ in range(count)])


def jumps(positions):
    return np.flatnonzero(np.diff(positions) > 1) + 1


def mean_pairwise_distance(positions):
    """Mean of |p_i - p_j| over pairs i < j, for sorted positions."""
    n = len(positions)
    return 2 * ((2 * np.arange(n) - n + 1) * positions).sum() / (n * (n - 1))


# what holds for every method


@every_method
@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_every_position_is_new_and_below_the_target(name, sample, seed):
    lengths, target = sample
    positions = FUNCTIONS[name](lengths, target, np.random.default_rng(seed))
    assert positions.shape == (sum(lengths),)
    assert positions.dtype == np.int64
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0 and positions[-1] < target
    if name != "rpes":
        assert positions[0] == 0


@every_method
@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_one_seed_gives_one_result_from_lists_and_arrays(name, sample, seed):
    lengths, target = sample
    given_list = FUNCTIONS[name](lengths, target, np.random.default_rng(seed))
    given_array = FUNCTIONS[name](np.array(lengths, dtype=np.int32), target, np.random.default_rng(seed))
    np.testing.assert_array_equal(given_list, given_array)


@every_method
@given(sample=samples(), seed=seeds)
def test_without_slack_there_is_only_one_way(name, sample, seed):
    lengths = sample[0]
    positions = FUNCTIONS[name](lengths, sum(lengths), np.random.default_rng(seed))
    np.testing.assert_array_equal(positions, np.arange(sum(lengths)))


@every_method
def test_arguments_are_left_alone(name, rng):
    lengths = np.array([3, 1, 4])
    FUNCTIONS[name](lengths, 50, rng)
    np.testing.assert_array_equal(lengths, [3, 1, 4])


@every_method
@pytest.mark.parametrize(
    ("lengths", "target", "message"),
    [
        ([6, 5], 10, "11 tokens do not fit target_length = 10"),
        ([1], 0, "1 tokens do not fit target_length = 0"),
        ([3, 0, 2], 10, r"segment_lengths\[1\] = 0: .*at least one token"),
        ([3, 2, -4], 10, r"segment_lengths\[2\] = -4"),
        ([], 10, "non-empty"),
        ([1.5, 2.0], 10, r"token counts, got \[1\.5, 2\.0\]"),
        ([[1, 2], [3, 4]], 10, "1D"),
        (5, 10, "1D"),
    ],
)
def test_impossible_samples_are_refused(name, lengths, target, message, rng):
    with pytest.raises(ValueError, match=message):
        FUNCTIONS[name](lengths, target, rng)


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "flt"])
def test_positions_are_drawn_anew(name):
    rng = np.random.default_rng(0)
    first, second = (FUNCTIONS[name]([10] * 8, 10_000, rng) for _ in range(2))
    assert (first != second).any()


def test_the_table_names_its_functions():
    assert {name: function.__name__ for name, function in FUNCTIONS.items()} == {name: name for name in FUNCTIONS}
    assert set(METHODS) - set(FUNCTIONS) == {"none"}
    assert {name: method.text for name, method in METHODS.items()} == {
        "longrecipe": "selected",
        "pose": "first",
        "rpes": "first",
        "flt": "whole",
        "none": "first",
    }


# FLT


@given(sample=samples(), seed=seeds)
def test_flt_counts(sample, seed):
    lengths, target = sample
    np.testing.assert_array_equal(flt(lengths, target, np.random.default_rng(seed)), np.arange(sum(lengths)))


# RPES


@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_rpes_and_pose_see_the_sum_only(sample, seed):
    lengths, target = sample
    for function in (rpes, pose):
        parts = function(lengths, target, np.random.default_rng(seed))
        np.testing.assert_array_equal(parts, function([sum(lengths)], target, np.random.default_rng(seed)))


def test_rpes_takes_every_position_equally_often():
    count, n, target = 4000, 6, 24
    hits = np.bincount(draws(rpes, [n], target, count).ravel(), minlength=target)
    expected = count * n / target
    # A count is binomial with variance count * p * (1 - p); five standard deviations leave room for none of 24.
    assert np.abs(hits - expected).max() < 5 * np.sqrt(expected * (1 - n / target))


def test_rpes_takes_every_subset_equally_often():
    found = draws(rpes, [2], 5, 6000)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 10
    assert ((counts - 600) ** 2 / 600).sum() < 27.9  # chi-square of 9 degrees of freedom, 0.1 %


# PoSE


@given(sample=samples(), seed=seeds)
def test_pose_jumps_once_at_most(sample, seed):
    lengths, target = sample
    assert len(jumps(pose(lengths, target, np.random.default_rng(seed)))) <= 1


def test_pose_draws_chunk_and_skip_uniformly():
    n, target, count = 5, 11, 8400
    found = draws(pose, [2, 3], target, count)
    skips = found[:, -1] - (n - 1)
    np.testing.assert_array_equal(np.unique(skips), np.arange(target - n + 1))
    seen = [(int(jumps(row)[0]), int(skip)) for row, skip in zip(found, skips, strict=True) if skip]
    pairs, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(pairs) == (n - 1) * (target - n), "every chunk length 1 to n - 1 with every skip"
    expected = count / ((n - 1) * (target - n + 1))
    assert ((counts - expected) ** 2 / expected).sum() < 51.2  # chi-square of 24 degrees of freedom, 0.1 %


def test_pose_nearly_always_skips():
    # The paper's public code leaves 57 % of its samples without a skip; here it is 1 in T - n + 1.
    found = draws(pose, [1228], 4096, 3000)
    assert (found[:, -1] == 1227).mean() < 0.005
    assert pose([1], 100, np.random.default_rng(0)).tolist() == [0]


# LongRecipe


@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_longrecipe_keeps_segments_whole_and_in_order(sample, seed):
    lengths, target = sample
    positions = longrecipe(lengths, target, np.random.default_rng(seed))
    starts = np.cumsum(lengths)[:-1]
    assert set(jumps(positions)) <= set(starts)
    for segment in np.split(positions, starts):
        np.testing.assert_array_equal(segment, segment[0] + np.arange(len(segment)))


@given(length=st.integers(1, 40), slack=st.integers(0, 100), seed=seeds)
def test_longrecipe_of_one_segment_stays_at_the_start(length, slack, seed):
    positions = longrecipe([length], length + slack, np.random.default_rng(seed))
    np.testing.assert_array_equal(positions, np.arange(length))


@pytest.mark.parametrize(("lengths", "target", "ways"), [([1, 1, 1], 6, 10), ([3, 1, 2, 2], 10, 10), ([2, 5], 11, 5)])
def test_longrecipe_draws_every_composition_equally_often(lengths, target, ways):
    # Slack S over N parts, the last being what is left after the last segment: C(S + N - 1, N - 1) ways.
    count = 600 * ways
    found, counts = np.unique(draws(longrecipe, lengths, target, count), axis=0, return_counts=True)
    assert len(found) == ways
    critical = {5: 18.5, 10: 27.9}[ways]  # chi-square of ways - 1 degrees of freedom, 0.1 %
    assert ((counts - 600) ** 2 / 600).sum() < critical


def test_longrecipe_of_single_tokens_is_rpes_that_starts_at_zero():
    found = draws(longrecipe, [1] * 4, 8, 5000)
    assert (found[:, 0] == 0).all()
    hits = np.bincount(found[:, 1:].ravel(), minlength=8)
    expected = 5000 * 3 / 7
    assert np.abs(hits[1:] - expected).max() < 5 * np.sqrt(expected * 4 / 7)


# Figure 3


def figure_3():
    with FIGURE_3.open() as file:
        return [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]


def sentences(n, rng):
    """Lengths of sentences of 88 tokens on average (the paper's mean run), each token being as likely to end one."""
    ends = np.flatnonzero(rng.random(n - 1) < 1 / 88) + 1
    return np.diff(np.concatenate([[0], ends, [n]]))


@pytest.mark.parametrize("row", [r for r in figure_3() if r["target_k"] in (20, 80)], ids=lambda r: f"{r['target_k']}k")
@pytest.mark.parametrize(("name", "count"), [("longrecipe", 1000), ("rpes", 40)])
def test_mean_token_distance_is_the_papers(row, name, count):
    target = 1000 * row["target_k"]
    n = int(0.3 * target)
    rng = np.random.default_rng(0)
    samples = (sentences(n, rng) for _ in range(count))
    mean = np.mean([mean_pairwise_distance(FUNCTIONS[name](lengths, target, rng)) for lengths in samples])
    assert mean == pytest.approx(row[name], rel=0.02)
    assert mean == pytest.approx(target / 3, rel=0.02)


def test_mean_pairwise_distance_counts_pairs():
    assert mean_pairwise_distance(np.array([0, 1, 5])) == pytest.approx((1 + 5 + 4) / 3)


def test_contiguous_runs_are_sentences_for_longrecipe_and_tokens_for_rpes():
    lengths, target, rng = [88] * 68, 20_000, np.random.default_rng(0)
    runs = {name: sum(lengths) / (1 + len(jumps(FUNCTIONS[name](lengths, target, rng)))) for name in FUNCTIONS}
    assert runs["longrecipe"] == pytest.approx(88, rel=0.05)
    assert runs["rpes"] < 1.6
    assert runs["flt"] == sum(lengths)
    assert runs["pose"] == sum(lengths) / 2
