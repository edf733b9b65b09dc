"""Loss by position: bins, means and intervals, and the paired difference of two models beyond a position."""

import numpy as np
import pytest

from longrecipe.evaluate import LONG_CONTEXT, loss_by_position, loss_difference, losses_by_document, position_edges


def test_bins_are_quarters_of_the_window_and_then_grow_with_the_position():
    assert position_edges(256, 4096) == [0, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
    assert position_edges(8192, 16384) == [0, 2048, 4096, 6144, 8192, 12288, 16384]
    # A last bin may be shorter, and held-out text may be shorter than the window.
    assert position_edges(256, 1000)[-3:] == [512, 768, 1000]


def test_losses_are_averaged_in_bins_of_positions():
    # The losses of the tokens 1 to 7; the first bin has the tokens 1 and 2.
    losses = {"one": np.array([[1.0, 3.0, 5.0, 5.0, 0.0, 1.0, 2.0]]), "other": np.zeros((1, 7))}
    found = losses_by_document(losses, [0, 3, 5, 8])
    assert found["count"].tolist() == [2, 2, 3] * 2 and found["document"].eq(0).all()
    table = loss_by_position(found)
    assert table["model"].tolist() == ["one"] * 3 + ["other"] * 3
    assert table["loss"].tolist() == [2.0, 5.0, 1.0, 0.0, 0.0, 0.0]
    assert list(zip(table["start"], table["end"], strict=True))[:3] == [(0, 3), (3, 5), (5, 8)]
    assert table["low"].isna().all()
    # Bins beyond the end of the text are left out.
    assert loss_by_position(losses_by_document(losses, [0, 8, 16]))["end"].tolist() == [8, 8]
    assert losses_by_document({}, [0, 8]).empty and loss_by_position(losses_by_document({}, [0, 8])).empty


def test_tokens_that_need_long_context_are_averaged_apart():
    losses = {"one": np.array([[1.0, 3.0, 5.0, 5.0], [2.0, 4.0, 6.0, 8.0]])}
    chosen = np.array([[False, True, False, True], [False, False, False, False]])
    found = losses_by_document(losses, [0, 3, 5], chosen)
    long = found[found["tokens"] == LONG_CONTEXT]
    assert long[["document", "start", "count", "loss"]].to_numpy().tolist() == [[0, 0, 1, 3.0], [0, 3, 1, 5.0]]
    # They change nothing in the curve of all tokens.
    assert loss_by_position(found)["loss"].tolist() == [2.5, 6.0]


def test_intervals_are_over_documents(rng):
    level = rng.normal(3.0, 0.5, size=(40, 1))
    losses = {"model": level + rng.normal(0, 0.1, size=(40, 99))}
    table = loss_by_position(losses_by_document(losses, [0, 50, 100])).set_index("end")
    for end in (50, 100):
        assert table.loc[end, "low"] < level.mean() < table.loc[end, "high"]
        assert table.loc[end, "high"] - table.loc[end, "low"] == pytest.approx(4 * 0.5 / np.sqrt(40), rel=0.3)


def test_models_are_compared_on_the_same_documents(rng):
    one = rng.normal(3.0, 1.0, size=(20, 99))
    other = one - 0.1
    other[:, :49] += 5
    some = np.zeros((20, 99), dtype=bool)
    some[:10, 60] = True
    other[:, 60] -= 1
    table = losses_by_document({"one": one, "other": other}, [0, 50, 61, 62, 100], some)
    mean, low, high = loss_difference(table, "one", "other", 62)
    # The same difference in every document, whatever their losses, which says nothing about other documents.
    assert mean == pytest.approx(0.1) and np.isnan([low, high]).all()
    near = losses_by_document({"one": one, "other": other + rng.normal(0, 0.01, size=(20, 1))}, [0, 50, 62, 100])
    mean, low, high = loss_difference(near, "one", "other", 62)
    assert low < 0.1 < high and high - low == pytest.approx(4 * 0.01 / np.sqrt(20), rel=0.4)
    # Bins count by their tokens: 50 of them, one of which differs by 1.1.
    assert loss_difference(table, "one", "other", 50)[0] == pytest.approx(0.1 + 1 / 50)
    assert loss_difference(table, "one", "other", 0, end=50)[0] == pytest.approx(0.1 - 5)
    assert loss_difference(table, "one", "other", 50, tokens=LONG_CONTEXT)[0] == pytest.approx(1.1)
    none = losses_by_document({"one": one, "other": other}, [0, 50, 100], np.zeros_like(some))
    assert np.isnan(loss_difference(none, "one", "other", 50, tokens=LONG_CONTEXT)).all()
    assert np.isnan(loss_difference(table, "one", "missing", 50)).all()
    few = table[table["document"] < 4]
    assert np.isnan(loss_difference(few, "one", "other", 50)[1:]).all()
