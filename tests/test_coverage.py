import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.positions import METHODS, coverage

FIGURE_3 = Path(__file__).resolve().parents[1] / "results" / "paper" / "fig3_token_distance.csv"
CLOSED = ("longrecipe", "stratified", "pose", "rpes", "endprompt", "flt")
rows = st.lists(st.integers(0, 60), min_size=2, max_size=30, unique=True).map(lambda found: np.sort(found))


def figure_3():
    with FIGURE_3.open(encoding="utf-8") as file:
        return [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]


def sentences(n, rng, mean=88):
    """Lengths of sentences of `mean` tokens on average (88: the paper's mean run), every token as likely to end one."""
    ends = np.flatnonzero(rng.random(n - 1) < 1 / mean) + 1
    return np.diff(np.concatenate([[0], ends, [n]]))


def draws(name, lengths, target, count, seed=0):
    rng = np.random.default_rng(seed)
    return [METHODS[name].draw({"segment_lengths": lengths}, target, rng) for _ in range(count)]


# the measures and their definitions


@given(rows)
def test_distances_are_of_all_pairs(positions):
    pairs = np.abs(positions[:, None] - positions)[np.triu_indices(len(positions), 1)]
    assert coverage.mean_distance(positions) == pytest.approx(pairs.mean())
    counts = coverage.pair_counts([positions], 61)
    np.testing.assert_array_equal(counts[0, 1:], np.bincount(pairs, minlength=61)[1:])
    assert counts[0, 0] == len(positions) and counts.dtype == np.int64
    assert coverage.distances_covered(counts)[0] == pytest.approx(len(set(pairs)) / 60)


def test_pair_counts_are_exact_at_full_length():
    # Every distance d of T contiguous tokens has T - d pairs.
    target = 131_072
    np.testing.assert_array_equal(coverage.pair_counts([np.arange(target)], target)[0], target - np.arange(target))


def test_runs_visits_and_reach():
    samples = [np.array([0, 1, 4, 5, 9]), np.array([0, 1, 2, 3, 8])]
    assert coverage.contiguous_run(samples[:1]) == pytest.approx(5 / 3)
    assert coverage.contiguous_run(samples) == pytest.approx(10 / 5)
    assert coverage.positions_visited(samples[:1], 10) == 0.5
    assert coverage.positions_visited(samples, 10) == 0.8
    assert coverage.reach(samples, 10) == 1.0, "the last of 9 is the 90 %"
    assert coverage.reach([np.array([0, 7]), samples[0]], 10) == 0.5
    counts = coverage.pair_counts(samples, 10)
    np.testing.assert_allclose(coverage.distances_covered(counts), [6 / 9, 1.0])
    # 0, 1, 2, 3 and 8 are 1, 2, 3, 5, 6, 7 and 8 apart.
    assert coverage.distances_by(counts, 1) == pytest.approx((6 / 9 + 7 / 9) / 2)
    assert coverage.distances_by(counts[[0, 1, 0]], 2) == 1, "the third is no batch of two"


def test_unevenness_is_the_spread_of_counts_over_samples():
    alike = [np.arange(50)] * 4
    assert coverage.unevenness(coverage.pair_counts(alike, 200)) == 0
    # Two samples, twenty bins: pairs at distance 1 to 10 in one, none in the other.
    far = [np.array([0, 5]), np.array([0, 105])]
    assert coverage.unevenness(coverage.pair_counts(far, 201), n_bins=20) == pytest.approx(np.sqrt(2))


def test_impossible_measures_are_errors():
    with pytest.raises(ValueError, match="1 tokens have no pairs"):
        coverage.mean_distance(np.array([4]))
    with pytest.raises(ValueError, match="1 tokens have no pairs"):
        coverage.expected("flt", [1], 10)
    with pytest.raises(ValueError, match="size = 3: there are 2 samples"):
        coverage.distances_by(coverage.pair_counts([np.arange(4)] * 2, 10), 3)
    with pytest.raises(ValueError, match="method = 'nope': allowed are longrecipe"):
        coverage.expected("nope", [4, 4], 10)
    with pytest.raises(ValueError, match="needs at least 2"):
        coverage.unevenness(coverage.pair_counts([np.arange(4)], 10))
    with pytest.raises(ValueError, match="do not fit"):
        coverage.expected("pose", [11], 10)


# closed forms


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize(
    ("lengths", "target"),
    [([3, 1, 5, 2, 4], 60), ([20] * 12, 1000), ([7, 30, 2, 21], 66), ([9], 40), ([1, 1], 30), ([5, 7], 12)],
)
def test_closed_forms_agree_with_many_samples(name, lengths, target):
    known = coverage.expected(name, lengths, target)
    found = coverage.summary(draws(name, lengths, target, 4000), target)
    if name == "stratified" and len(lengths) == 1:
        assert known == {}
    for key, value in known.items():
        tolerance = {"mean_distance": 0.02, "contiguous_run": 0.03, "reach": 0.0}[key] * value
        assert found[key] == pytest.approx(value, abs=max(tolerance, 0.03 if key == "reach" else 1e-9)), key


def test_methods_without_a_law_and_other_options_have_no_closed_form():
    assert {name for name in METHODS if coverage.expected(name, [4, 4], 20)} == set(CLOSED)
    assert coverage.expected("pose:n_chunks=4", [4, 4], 20) == coverage.expected("cream", [4, 4], 20) == {}


def test_summary_has_the_keys_of_the_closed_forms():
    found = coverage.summary(draws("longrecipe", [4] * 5, 60, 3), 60)
    assert coverage.expected("longrecipe", [4] * 5, 60).keys() <= found.keys()
    assert all(isinstance(value, float) for value in found.values())


# Figure 3


@pytest.mark.parametrize("row", figure_3(), ids=lambda row: f"{row['target_k']}k")
@pytest.mark.parametrize(("name", "count"), [("longrecipe", 400), ("rpes", 20)])
def test_mean_token_distance_agrees_with_figure_3(row, name, count):
    target = 1000 * row["target_k"]
    n = int(0.3 * target)
    rng = np.random.default_rng(0)
    drawn = (METHODS[name].draw({"segment_lengths": sentences(n, rng)}, target, rng) for _ in range(count))
    mean = np.mean([coverage.mean_distance(each) for each in drawn])
    assert mean == pytest.approx(row[name], rel=0.02)
    assert mean == pytest.approx(target / 3, rel=0.02)
    expected = np.mean([coverage.expected(name, sentences(n, rng), target)["mean_distance"] for _ in range(count)])
    assert mean == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("target", [20_000, 128_000])
def test_mean_runs_are_sentences(target):
    n, rng = int(0.3 * target), np.random.default_rng(0)
    lengths = [sentences(n, rng) for _ in range(20)]
    mean = np.concatenate(lengths).mean()
    for name in ("longrecipe", "stratified"):
        drawn = [METHODS[name].draw({"segment_lengths": each}, target, rng) for each in lengths]
        assert coverage.contiguous_run(drawn) == pytest.approx(mean, rel=0.1)
    assert coverage.contiguous_run(draws("rpes", lengths[0], target, 5)) < 1.6
    assert coverage.contiguous_run(draws("flt", lengths[0], target, 1)) == n
    assert coverage.contiguous_run(draws("pose", lengths[0], target, 5)) == n / 2


# what stratification buys


@pytest.mark.parametrize("ratio", [0.3, 0.1])
def test_stratified_covers_more_with_fewer_samples_than_algorithm_1(ratio):
    target, rng = 4096, np.random.default_rng(0)
    texts = [{"segment_lengths": sentences(int(ratio * target), rng, mean=24)} for _ in range(200)]
    summaries = {
        name: coverage.summary([METHODS[name].draw(text, target, rng) for text in texts], target)
        for name in ("longrecipe", "stratified")
    }
    assert summaries["stratified"]["distances_by_one"] > summaries["longrecipe"]["distances_by_one"] + 0.005
    assert summaries["stratified"]["unevenness"] < 0.95 * summaries["longrecipe"]["unevenness"]
