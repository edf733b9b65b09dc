"""Pieces that are taken from a corpus."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longrecipe.data.corpus import excerpt, stretches


@given(count=st.integers(0, 12), length=st.integers(1, 12), spare=st.integers(0, 20))
def test_stretches_cover_the_start_of_the_text(count, length, spare):
    found = stretches(np.arange(count * length + spare), count, length)
    assert [len(each) for each in found] == [length] * count
    np.testing.assert_array_equal([token for each in found for token in each], np.arange(count * length))


def test_too_short_text_error_gives_the_possible_number_of_documents():
    source = np.arange(1999)
    message = "2 documents of 1000 tokens need 2,000 tokens, but the corpus has 1,999: use at most 1 documents"
    with pytest.raises(ValueError, match=message):
        stretches(source, 2, 1000)
    assert len(stretches(source, 1, 1000)) == 1
    with pytest.raises(ValueError, match="use at most 4 documents"):
        stretches(source, 9, 450)


@given(length=st.integers(1, 40), seed=st.integers(0, 2**32 - 1))
def test_excerpt_continues_at_the_start_of_the_text(length, seed):
    found = excerpt(np.arange(10), length, np.random.default_rng(seed))
    assert len(found) == length
    assert set(np.diff(found)) <= {1, -9}


def test_excerpts_start_anywhere(rng):
    starts = {int(excerpt(np.arange(10), 3, rng)[0]) for _ in range(300)}
    assert starts == set(range(10))
