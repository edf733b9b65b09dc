import itertools
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrecipe import positions
from longrecipe.positions import METHODS, cream, endprompt, flt, longrecipe, pose, rpes, source, stratified

NAMES = [name for name, method in METHODS.items() if method.positions is not None]
# The same table with options that change the law.
VARIANTS = {
    **{name: METHODS[name] for name in NAMES},
    **{
        name: positions.find(name)
        for name in (
            "longrecipe:max_gap=0",
            "longrecipe:max_gap=9",
            "pose:n_chunks=5",
            "cream:sigma=0.1",
            "endprompt:terminal=1",
        )
    },
}
KEEP_SEGMENTS = ("longrecipe", "longrecipe:max_gap=0", "longrecipe:max_gap=9", "stratified", "source", "flt")
RANDOM = ("longrecipe", "stratified", "pose", "rpes", "cream")

every_method = pytest.mark.parametrize("name", VARIANTS)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def samples(draw):
    """Segment lengths, single tokens and one segment among them, and a target that may leave no slack at all."""
    lengths = draw(st.lists(st.integers(1, 12) | st.just(1), min_size=1, max_size=20))
    return lengths, sum(lengths) + draw(st.integers(0, 300) | st.just(0))


def positions_of(name, lengths, target, seed):
    """Positions by the table; segments stand in a document of the target's length, in places of their own."""
    slack, rng = target - int(np.sum(lengths)), np.random.default_rng([seed, 1])
    left_out = np.sort(rng.integers(0, slack, size=len(lengths), endpoint=True))
    starts = np.cumsum(lengths) - lengths + left_out
    sample = {"segment_lengths": lengths, "segment_starts": starts}
    return VARIANTS[name].draw(sample, target, np.random.default_rng(seed))


def draws(function, lengths, target, count, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([function(lengths, target, rng) for _ in range(count)])


def jumps(row):
    return np.flatnonzero(np.diff(row) > 1) + 1


def chi_square(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()


# what holds for every method


@every_method
@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_positions_strictly_increase_below_the_target(name, sample, seed):
    lengths, target = sample
    found = positions_of(name, lengths, target, seed)
    assert found.shape == (sum(lengths),)
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all()
    assert found[0] >= 0 and found[-1] < target
    if name not in ("rpes", "source"):
        assert found[0] == 0


@pytest.mark.parametrize("name", KEEP_SEGMENTS)
@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_segments_stay_contiguous_and_in_order(name, sample, seed):
    lengths, target = sample
    found = positions_of(name, lengths, target, seed)
    starts = np.cumsum(lengths)[:-1]
    assert set(jumps(found)) <= set(starts)
    for segment in np.split(found, starts):
        np.testing.assert_array_equal(segment, segment[0] + np.arange(len(segment)))


@every_method
@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_same_seed_gives_same_positions_from_lists_and_arrays(name, sample, seed):
    lengths, target = sample
    from_list = positions_of(name, lengths, target, seed)
    from_array = positions_of(name, np.array(lengths, dtype=np.int32), target, seed)
    np.testing.assert_array_equal(from_list, from_array)


@every_method
@given(sample=samples(), seed=seeds)
def test_without_slack_positions_are_contiguous(name, sample, seed):
    lengths = sample[0]
    found = positions_of(name, lengths, sum(lengths), seed)
    np.testing.assert_array_equal(found, np.arange(sum(lengths)))


@every_method
def test_arguments_are_not_changed(name):
    lengths = np.array([3, 1, 4])
    positions_of(name, lengths, 50, 0)
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
def test_impossible_samples_are_errors(name, lengths, target, message, rng):
    with pytest.raises(ValueError, match=message):
        VARIANTS[name].draw({"segment_lengths": lengths, "segment_starts": [0]}, target, rng)


@pytest.mark.parametrize("name", RANDOM)
def test_two_draws_differ(name):
    rng = np.random.default_rng(0)
    first, second = (METHODS[name].positions([10] * 8, 10_000, rng) for _ in range(2))
    assert (first != second).any()


# the table


def test_methods_are_named_after_their_functions():
    assert {name: METHODS[name].positions.__name__ for name in NAMES} == {name: name for name in NAMES}
    assert set(METHODS) - set(NAMES) == {"none"}
    # The paper's own, section 5; others may join them.
    texts = {"longrecipe": "selected", "pose": "first", "rpes": "first", "flt": "whole", "none": "first"}
    assert {name: METHODS[name].text for name in texts} == texts


def test_method_without_transform_has_contiguous_positions(rng):
    np.testing.assert_array_equal(METHODS["none"].draw({"segment_lengths": [3, 2]}, 9, rng), np.arange(5))


def test_options_are_keyword_only_arguments_of_the_function():
    options = {name: method.options for name, method in METHODS.items()}
    assert options["rpes"] == options["source"] == options["none"] == {}
    assert options["longrecipe"] == {"max_gap": None} and options["pose"] == {"n_chunks": 2}
    assert options["cream"] == {"sigma": 3.0} and options["endprompt"] == {"terminal": 18}


def test_options_after_a_colon_reach_the_function():
    assert positions.find("pose") is METHODS["pose"]
    for name, function in {
        "pose:n_chunks=4": partial(pose, n_chunks=4),
        "longrecipe:max_gap=7": partial(longrecipe, max_gap=7),
        "cream:sigma=1.5": partial(cream, sigma=1.5),
    }.items():
        chosen = positions.find(name)
        assert (chosen.text, chosen.summary) == (METHODS[name.split(":")[0]].text, METHODS[name.split(":")[0]].summary)
        for one, other in zip(
            draws(chosen.positions, [5] * 20, 900, 5), draws(function, [5] * 20, 900, 5), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    assert positions.find("pose:n_chunks=4").options == {"n_chunks": 4}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nope", f"'nope': allowed are {', '.join(METHODS)}"),
        ("pose:chunks=3", "unknown option 'chunks'; allowed are pose:n_chunks=NUMBER"),
        ("pose:n_chunks", "n_chunks = '' is not a number"),
        ("pose:", "unknown option ''; allowed are pose:n_chunks=NUMBER"),
        ("pose:n_chunks=3,n_chunks=4", "n_chunks is given twice"),
        ("pose:n_chunks=2.5", "n_chunks = '2.5' is not a number of its kind"),
        ("pose:n_chunks=1", "n_chunks = 1: PoSE needs at least 2"),
        ("longrecipe:max_gap=-1", "max_gap = -1"),
        ("cream:sigma=0", "sigma = 0.0: must be positive"),
        ("cream:sigma=nan", "sigma = nan: must be positive"),
        ("cream:sigma=inf", "sigma = inf: must be positive and finite"),
        ("longrecipe:max_gap=9223372036854775808", "max_gap = 9223372036854775808"),
        ("endprompt:terminal=0", "terminal = 0"),
        ("rpes:n=3", "unknown option 'n'; allowed are rpes, without options"),
        ("source:segment_starts=3", "unknown option 'segment_starts'"),
        ("none:x=1", "unknown option 'x'"),
    ],
)
def test_unknown_name_or_option_error_lists_what_is_allowed(name, message):
    with pytest.raises(ValueError, match=message):
        positions.find(name)


# FLT


@given(sample=samples(), seed=seeds)
def test_flt_counts(sample, seed):
    lengths, target = sample
    np.testing.assert_array_equal(flt(lengths, target, np.random.default_rng(seed)), np.arange(sum(lengths)))


# RPES


@settings(deadline=None)
@given(sample=samples(), seed=seeds)
def test_rivals_depend_only_on_the_sum_of_segment_lengths(sample, seed):
    lengths, target = sample
    for function in (rpes, pose, cream, endprompt):
        parts = function(lengths, target, np.random.default_rng(seed))
        np.testing.assert_array_equal(parts, function([sum(lengths)], target, np.random.default_rng(seed)))


def test_rpes_draws_every_position_equally_often():
    count, n, target = 4000, 6, 24
    hits = np.bincount(draws(rpes, [n], target, count).ravel(), minlength=target)
    expected = count * n / target
    # A count is binomial with variance count * p * (1 - p); five standard deviations leave room for none of 24.
    assert np.abs(hits - expected).max() < 5 * np.sqrt(expected * (1 - n / target))


def test_rpes_draws_every_subset_equally_often():
    found = draws(rpes, [2], 5, 6000)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 10
    assert chi_square(counts) < 27.9  # 9 degrees of freedom, 0.1 %


# PoSE


@given(sample=samples(), seed=seeds, n_chunks=st.integers(2, 9))
def test_pose_only_jumps_between_chunks(sample, seed, n_chunks):
    lengths, target = sample
    found = pose(lengths, target, np.random.default_rng(seed), n_chunks=n_chunks)
    assert len(jumps(found)) <= n_chunks - 1


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


def test_pose_of_three_chunks_splits_uniformly_and_sorts_its_skips():
    n, target, count = 5, 8, 9600
    found = draws(partial(pose, n_chunks=3), [n], target, count)
    offsets = found - np.arange(n)
    assert (np.diff(offsets, axis=1) >= 0).all()
    # Two splits of {1, ..., 4} and two sorted skips of {0, ..., 3}; both skips 1 and 3 show where the splits are.
    shown = offsets[(offsets[:, -1] == 3) & (offsets == 1).any(axis=1) & (offsets[:, 0] == 0)]
    splits = [tuple(np.flatnonzero(np.diff(row)) + 1) for row in shown]
    pairs, counts = np.unique(splits, axis=0, return_counts=True)
    assert [tuple(pair) for pair in pairs.tolist()] == list(itertools.combinations(range(1, n), 2))
    assert chi_square(counts) < 20.5  # 5 degrees of freedom, 0.1 %
    # The larger skip is the maximum of two uniform ones.
    last = np.bincount(offsets[:, -1], minlength=4) / count
    np.testing.assert_allclose(last, np.array([1, 3, 5, 7]) / 16, atol=0.03)


def test_pose_nearly_always_skips():
    # The paper's public code leaves 57 % of its samples without a skip; here it is 1 in T - n + 1.
    found = draws(pose, [1228], 4096, 3000)
    assert (found[:, -1] == 1227).mean() < 0.005
    assert pose([1], 100, np.random.default_rng(0)).tolist() == [0]
    assert len(jumps(pose([3], 10**6, np.random.default_rng(0), n_chunks=8))) == 2


# CREAM


def parts(row, target):
    """Head, middle and tail of a CREAM sample whose middle touches neither."""
    head, middle, tail = np.split(row, jumps(row))
    assert head[0] == 0 and tail[-1] == target - 1 and len(head) == len(tail)
    return len(head), len(middle), int(middle[-1])


def test_worked_example_of_cream():
    found = {tuple(row) for row in draws(cream, [6], 18, 4000).tolist()}
    assert (0, 1, 7, 8, 16, 17) in found


def test_half_of_the_samples_of_cream_have_long_ends():
    n, target = 600, 4800
    # Gaps of 0 next to the middle are rare; such samples show no three parts.
    rows = [row for row in draws(cream, [n], target, 2000) if len(jumps(row)) == 2]
    heads = np.array([parts(row, target)[0] for row in rows])
    assert len(rows) > 1950 and set(heads) == {200, 32}, "n / 3 and 4 T / n"
    assert 0.45 < (heads == 200).mean() < 0.55


@pytest.mark.parametrize("sigma", [0.5, 3.0, 50.0])
@pytest.mark.parametrize("ends", [100, 32], ids=["a third", "4 T / n"])
def test_middle_of_cream_follows_a_truncated_gaussian(sigma, ends):
    n, target, count = 300, 2400, 8000
    found = draws(partial(cream, sigma=sigma), [n], target, count)
    # The head is the first third, or goes on where the middle touches it.
    long = found[:, 99] == 99
    last = found[long == (ends == 100)][:, n - ends - 1]
    assert 0.45 < len(last) / count < 0.55
    # The definition, by rejection: alpha in half windows, mean 1 + T / n, then a uniform end.
    rng = np.random.default_rng(5)
    alpha = rng.normal(1 + target / n, sigma, size=400_000) / 2
    alpha = alpha[(alpha >= 1) & (alpha <= target / n)][:60_000]
    middle = n - 2 * ends
    low, high = np.floor(ends + (middle - 1) * alpha), np.floor(alpha * n) - ends - 1
    wanted = np.floor(low + rng.random(len(alpha)) * (high - low + 1))
    assert last.min() >= ends + middle - 1 and last.max() <= target - ends - 1
    quantiles = np.linspace(0.05, 0.95, 19)
    error = np.abs(np.quantile(last, quantiles) - np.quantile(wanted, quantiles)).max()
    assert error < 0.03 * target


def test_narrow_gaussian_centres_the_middle_of_cream():
    found = draws(partial(cream, sigma=1e-6), [300], 2400, 300)
    alpha = (1 + 2400 / 300) / 2
    for row in found:
        h = 100 if row[99] == 99 and row[100] > 100 else 32
        end = row[300 - h - 1]
        assert int(h + (300 - 2 * h - 1) * alpha) <= end <= int(alpha * 300) - h - 1


# EndPrompt


def test_endprompt_moves_the_last_tokens_to_the_end_of_the_target():
    np.testing.assert_array_equal(endprompt([3, 2], 10, None, terminal=2), [0, 1, 2, 8, 9])
    found = endprompt([700, 300], 65536, None)
    np.testing.assert_array_equal(found[:982], np.arange(982))
    np.testing.assert_array_equal(found[982:], np.arange(65536 - 18, 65536))
    assert endprompt([1], 10, None).tolist() == [0]
    assert endprompt([3], 10, None).tolist() == [0, 8, 9]


# LongRecipe


@given(length=st.integers(1, 40), slack=st.integers(0, 100), seed=seeds)
def test_one_segment_stays_at_the_start(length, slack, seed):
    for function in (longrecipe, stratified, partial(longrecipe, max_gap=5)):
        found = function([length], length + slack, np.random.default_rng(seed))
        np.testing.assert_array_equal(found, np.arange(length))


@pytest.mark.parametrize(("lengths", "target", "ways"), [([1, 1, 1], 6, 10), ([3, 1, 2, 2], 10, 10), ([2, 5], 11, 5)])
def test_longrecipe_draws_every_composition_equally_often(lengths, target, ways):
    # Slack S over N parts, the last being what is left after the last segment: C(S + N - 1, N - 1) ways.
    found, counts = np.unique(draws(longrecipe, lengths, target, 600 * ways), axis=0, return_counts=True)
    assert len(found) == ways
    assert chi_square(counts) < {5: 18.5, 10: 27.9}[ways]  # ways - 1 degrees of freedom, 0.1 %


def test_longrecipe_of_single_tokens_is_rpes_starting_at_zero():
    found = draws(longrecipe, [1] * 4, 8, 5000)
    assert (found[:, 0] == 0).all()
    hits = np.bincount(found[:, 1:].ravel(), minlength=8)
    expected = 5000 * 3 / 7
    assert np.abs(hits[1:] - expected).max() < 5 * np.sqrt(expected * 4 / 7)


def test_gaps_of_equation_6_are_uniform_and_stop_at_the_target():
    lengths, gap = [2] * 5, 3
    found = draws(partial(longrecipe, max_gap=gap), lengths, 1000, 2500)
    gaps = np.diff(found, axis=1)[:, 1::2] - 1
    assert chi_square(np.bincount(gaps.ravel(), minlength=gap + 1)) < 16.3  # 3 degrees of freedom, 0.1 %
    # With little room the gaps come until the slack is used up, and none after.
    tight = draws(partial(longrecipe, max_gap=gap), lengths, 14, 500)
    assert (tight[:, -1] <= 13).all() and (tight[:, -1] == 13).any()
    np.testing.assert_array_equal(longrecipe(lengths, 1000, np.random.default_rng(0), max_gap=0), np.arange(10))


def test_very_large_gaps_stop_at_the_target():
    found = longrecipe([2] * 200, 500, np.random.default_rng(0), max_gap=2**62)
    assert (np.diff(found) > 0).all() and found[-1] == 499


def test_gaps_of_twice_the_mean_fill_the_target():
    lengths, target = [20] * 60, 4000
    gap = 2 * (target - 1200) // 59
    last = draws(partial(longrecipe, max_gap=gap), lengths, target, 300)[:, -1]
    assert 0.9 * target < last.mean() < target and (last == target - 1).any()


# stratified


def test_offsets_of_stratified_have_the_marginal_law_of_algorithm_1():
    lengths, target, count = [2, 1, 3, 2], 30, 20_000
    starts = np.cumsum(lengths) - lengths
    for function in (longrecipe, stratified):
        found = draws(function, lengths, target, count)
        offsets = (found - np.arange(8))[:, starts[1:]]
        hits = np.bincount(offsets.ravel(), minlength=23)
        # 3 segments over offsets 0 to 22, each equally often.
        expected = count * 3 / 23
        assert len(hits) == 23
        assert np.abs(hits - expected).max() < 5 * np.sqrt(expected), function.__name__


def test_offsets_of_stratified_stay_in_their_strata():
    lengths, target = [3] * 11, 33 + 99
    offsets = (draws(stratified, lengths, target, 3000) - np.arange(33))[:, 3::3]
    assert (offsets // 10 == np.arange(10)).all(), "ten strata of 100 offsets"
    assert chi_square(np.bincount(offsets.ravel(), minlength=100)) < 149  # 99 degrees of freedom, 0.1 %


# source


def test_source_keeps_the_offsets_in_the_document():
    found = source([2, 2, 1], 10, None, segment_starts=[1, 4, 9])
    np.testing.assert_array_equal(found, [1, 2, 4, 5, 9])


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (None, "give segment_starts"),
        ([0, 4], "2 entries for 3 segments"),
        ([0, 1, 9], "without overlap"),
        ([4, 0, 9], "in order"),
        ([-1, 4, 9], "must be 0 or more"),
        ([0, 4, 10], "ends at 11, beyond target_length = 10"),
    ],
)
def test_impossible_starts_are_errors(starts, message):
    with pytest.raises(ValueError, match=message):
        source([2, 2, 1], 10, None, segment_starts=starts)
