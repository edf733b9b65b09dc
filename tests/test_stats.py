import math

import numpy as np
import pytest

from longrecipe import stats


def test_seed_interval_is_students_t():
    # t = 4.302653 with 2 degrees of freedom, standard deviation 0.05.
    mean, low, high = stats.seed_interval([0.8, 0.9, 0.85])
    assert (mean, high - mean) == pytest.approx((0.85, 4.302653 * 0.05 / math.sqrt(3)))
    assert mean - low == pytest.approx(high - mean)


@pytest.mark.parametrize("count", [2, 5, 11, 40])
def test_seed_interval_covers_the_mean_for_any_number_of_seeds(count):
    rng = np.random.default_rng(count)
    found = [stats.seed_interval(rng.normal(size=count).tolist()) for _ in range(1000)]
    assert 0.93 < np.mean([low <= 0 <= high for _, low, high in found]) < 0.97


@pytest.mark.parametrize("values", [[], [0.9]])
def test_seed_interval_of_fewer_than_2_seeds_is_an_error(values):
    with pytest.raises(ValueError, match=f"needs at least 2 of them, not {len(values)}: run more seeds"):
        stats.seed_interval(values)


def test_wilson_agrees_with_published_intervals():
    # Newcombe (1998), table I.
    for hits, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert stats.wilson(hits, trials) == pytest.approx((hits / trials, low, high), abs=1e-4)
    for trials in range(1, 100):
        assert stats.wilson(0, trials)[:2] == (0, 0) and stats.wilson(trials, trials)[::2] == (1, 1)
    with pytest.raises(ValueError, match="n"):
        stats.wilson(3, 2)


def test_bootstrap_interval_contains_the_mean_and_follows_the_generator(rng):
    values = rng.random(30)
    first, again = (stats.bootstrap(values, np.random.default_rng(3)) for _ in range(2))
    assert first == again and first[0] == values.mean() and first[1] < first[0] < first[2]
    weights = stats.bootstrap_weights(30, 5, rng)
    assert weights.shape == (5, 30) and (weights.sum(axis=1) == 30).all()


def test_percentile_interval_leaves_out_nan():
    draws = np.stack([np.arange(101.0), np.r_[np.arange(100.0), np.nan]], axis=1)
    low, high = stats.percentile_interval(draws)
    np.testing.assert_allclose([low, high], [[2.5, 2.475], [97.5, 96.525]])


def test_rank_correlation_is_spearmans_without_pairs_that_have_a_nan():
    first, second = np.array([1.0, 2, 3, 4, np.nan]), np.array([1.0, 8, 27, 20, 0])
    assert stats.rank_correlation(first, second) == pytest.approx(0.8)
    assert math.isnan(stats.rank_correlation(first[:2], second[:2]))
    assert math.isnan(stats.rank_correlation(np.ones(5), second))
