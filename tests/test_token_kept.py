import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.data.selection import SELECTIONS, select
from longrecipe.data.sentences import SentenceEnds, sentence_lengths
from longrecipe.tokens import Kept, densities, keep

ENDS = SentenceEnds(np.arange(10) == 9)


def test_kept_anchors_are_those_inside_a_kept_segment():
    # Segments 2..4 and 8..9 of twelve tokens; their first and last tokens count.
    for anchors, kept in {(0, 2, 4, 5, 7, 8, 9, 10, 11): [2, 4, 8, 9], (0, 1, 11): [], (3,): [3]}.items():
        found = Kept(12, np.array(anchors), np.array([2, 8]), np.array([3, 2]))
        assert found.kept_anchors.tolist() == kept
        assert found.density == len(kept) / 5


@given(ids=st.lists(st.integers(0, 9), min_size=1, max_size=60).map(np.array), seed=st.integers(0, 2**32 - 1))
def test_keep_applies_every_selection(ids, seed):
    mask, n_tokens = ids == 5, max(1, len(ids) // 3)
    kept = keep([ids, ids[::-1]], [mask, mask[::-1]], ENDS, n_tokens=n_tokens, rng=np.random.default_rng(seed))
    assert list(kept) == [how for how in SELECTIONS if how != "shift"]
    rng = np.random.default_rng(seed)
    for i, (document, is_anchor) in enumerate([(ids, mask), (ids[::-1], mask[::-1])]):
        for how in kept:
            found = kept[how][i]
            places = np.concatenate([start + np.arange(n) for start, n in zip(found.starts, found.sizes, strict=True)])
            lengths = sentence_lengths(document, ENDS)
            expected, sizes, _ = select(np.arange(len(ids)), lengths, is_anchor, n_tokens=n_tokens, rng=rng, how=how)
            np.testing.assert_array_equal(places, expected)
            np.testing.assert_array_equal(found.sizes, sizes)
            assert found.length == len(ids)
            np.testing.assert_array_equal(found.anchors, np.flatnonzero(is_anchor))
            np.testing.assert_array_equal(found.kept_anchors, places[is_anchor[places]])


def test_densities():
    def of(*places, segments):
        starts, sizes = map(np.array, zip(*segments, strict=True))
        return Kept(10, np.array(places), starts, sizes)

    # Two documents of ten tokens, of which four are kept: with 2 and 3 anchors.
    kept = {
        "anchored": [of(2, 3, segments=[(2, 4)]), of(0, 2, 6, segments=[(0, 3), (6, 1)])],
        "random": [of(2, 3, segments=[(3, 4)]), of(0, 2, 6, segments=[(0, 1), (7, 3)])],
        "first": [of(2, 3, segments=[(0, 4)]), of(0, 2, 6, segments=[(0, 4)])],
    }
    expected = pd.DataFrame(
        {
            "anchors per 1,000 tokens": [625.0, 250.0, 500.0, 250.0],
            "times random": [2.5, 1.0, 2.0, 1.0],
            "anchors kept": [1.0, (1 / 2 + 1 / 3) / 2, (2 / 2 + 2 / 3) / 2, 1.0],
            "segments kept": [1.5, 1.5, 1.0, np.nan],
        },
        index=pd.Index(["anchored", "random", "first", "whole document"], name="selection"),
    )
    pd.testing.assert_frame_equal(densities(kept), expected)


def test_different_numbers_of_documents_and_masks_are_an_error(rng):
    with pytest.raises(ValueError, match="zip"):
        keep([np.arange(5)], [], ENDS, n_tokens=2, rng=rng)
