import numpy as np
import pytest
import torch
from datasets import load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from longrecipe import positions
from longrecipe.data.samples import Collator, interleave, load, rows_of, sample_of, store, tokens_seen
from longrecipe.data.selection import SELECTIONS, select, whole
from longrecipe.data.sentences import SentenceEnds, sentence_lengths
from longrecipe.positions import METHODS

TARGET, N_TOKENS = 128, 32
LONGRECIPE = METHODS["longrecipe"]


def collator(seed=3, **changes):
    return Collator(LONGRECIPE, TARGET, seed, **changes)


# samples


def test_each_method_reads_its_own_text(rng):
    ids, ends = np.array([1, 9, 5, 9, 2, 9]), SentenceEnds(np.arange(10) == 9)
    plain = {"ends": ends, "is_anchor": None, "rng": rng}
    for name, expected in {"pose": [1, 9, 5], "rpes": [1, 9, 5], "flt": [1, 9, 5], "none": [1, 9, 5]}.items():
        sample = sample_of(ids, METHODS[name], 3, **plain)
        assert [each.tolist() for each in sample] == [expected, [2, 1], [0, 2]]
    sample = sample_of(ids, LONGRECIPE, 2, ends=ends, is_anchor=ids == 5, rng=rng)
    assert [each.tolist() for each in sample] == [[5, 9], [2], [2]]
    with pytest.raises(ValueError, match="run the token analysis first"):
        sample_of(ids, LONGRECIPE, 3, **plain)


@pytest.mark.parametrize("how", SELECTIONS)
def test_sample_uses_the_given_selection(how):
    rng = np.random.default_rng(1)
    ids, ends = rng.integers(0, 10, size=200), SentenceEnds(np.arange(10) == 9)
    shift = rng.normal(size=200)

    def sample(method, selection):
        rng = np.random.default_rng(7)
        more = {"selection": selection, "shift": shift}
        return sample_of(ids, method, 60, ends=ends, is_anchor=ids == 5, rng=rng, **more)

    found, rng = sample(LONGRECIPE, how), np.random.default_rng(7)
    expected = select(ids, sentence_lengths(ids, ends), ids == 5, n_tokens=60, rng=rng, how=how, shift=shift)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # All differ, and methods that read plain text ignore them.
    others = [sample(LONGRECIPE, each) for each in SELECTIONS]
    assert sum(np.array_equal(found[0], other[0]) for other in others) == 1
    np.testing.assert_array_equal(sample(METHODS["pose"], how).ids, ids[:60])


# the stored set


def test_stored_set_is_complete_and_leaves_no_temporary_files(random_rows, tmp_path):
    folder = tmp_path / "deep" / "set"
    rows = [*random_rows(5), *rows_of([whole(np.arange(7), np.array([3, 4]))], long=False)]
    for count in (6, 4):
        found = store(rows[-count:], folder)
        assert [path.name for path in folder.parent.iterdir()] == ["set"]
        for stored in (found, load_from_disk(str(folder))):
            assert stored["key"] == list(range(count))
            for row, expected in zip(stored, rows[-count:], strict=True):
                assert row["input_ids"] == expected["input_ids"].tolist()
                assert row["segment_lengths"] == expected["segment_lengths"].tolist()
                assert row["segment_starts"] == expected["segment_starts"].tolist()
                assert row["long"] is expected["long"]


@given(n_long=st.integers(0, 30), n_short=st.integers(0, 30), size=st.integers(1, 5))
def test_interleaved_batches_are_of_one_kind_and_evenly_spread(n_long, n_short, size):
    rows = [{"long": i < n_long, "number": i} for i in range(n_long + n_short)]
    mixed = interleave(rows[:n_long], rows[n_long:], size)
    counts = n_long // size, n_short // size
    batches = [mixed[i : i + size] for i in range(0, len(mixed), size)]
    assert len(batches) == sum(counts) and len(mixed) == size * sum(counts)
    kinds = [{row["long"] for row in batch} for batch in batches]
    assert all(len(kind) == 1 for kind in kinds)
    # No row occurs twice, and each kind keeps its order.
    for long, count, start in ((True, counts[0], 0), (False, counts[1], n_long)):
        numbers = [row["number"] for row in mixed if row["long"] is long]
        assert numbers == list(range(start, start + count * size))
    so_far = np.cumsum([kind == {True} for kind in kinds])
    if batches:
        even = counts[0] * np.arange(1, len(batches) + 1) / len(batches)
        assert np.abs(so_far - even).max() <= 1


# the collator


def test_positions_depend_only_on_seed_epoch_and_key(dataset):
    rows = list(dataset)
    together = collator()(rows)["position_ids"]
    alone = torch.cat([collator()([row])["position_ids"] for row in reversed(rows)]).flip(0)
    assert torch.equal(together, alone)
    for other in (collator(seed=4), collator(epoch=1)):
        assert (other(rows)["position_ids"] != together).any(dim=1).all()
    moved = [{**row, "key": row["key"] + 100} for row in rows]
    assert (collator()(moved)["position_ids"] != together).any(dim=1).all()
    for row, found in zip(rows, together, strict=True):
        rng = np.random.default_rng([3, 0, row["key"]])
        np.testing.assert_array_equal(found, LONGRECIPE.positions(row["segment_lengths"], TARGET, rng))


# The test needs more workers than processors.
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("name", ["longrecipe", "source", "pose:n_chunks=4"])
@pytest.mark.parametrize("workers", [2, 4])
def test_loader_workers_draw_the_same_positions(dataset, workers, name):
    ours = Collator(positions.find(name), TARGET, seed=3, epoch=2)
    alone, many = (list(DataLoader(dataset, batch_size=2, collate_fn=ours, num_workers=n)) for n in (0, workers))
    assert len(alone) == len(many) == 5
    for first, second in zip(alone, many, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_persistent_workers_see_the_next_epoch(dataset, context):
    ours = collator()
    loader = DataLoader(
        dataset, batch_size=2, collate_fn=ours, num_workers=2, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in range(3):
        ours.epoch = epoch
        found = torch.cat([batch["position_ids"] for batch in loader])
        assert torch.equal(found, collator(epoch=epoch)(list(dataset))["position_ids"])


def test_source_positions_are_those_in_the_document(rng):
    ids, ends = rng.integers(0, 10, size=TARGET), SentenceEnds(np.arange(10) == 9)
    rows = rows_of(
        [sample_of(ids, METHODS["source"], N_TOKENS, ends=ends, is_anchor=None, rng=rng, selection="random")]
    )
    found = Collator(METHODS["source"], TARGET, seed=0)([row | {"key": 0} for row in rows])
    np.testing.assert_array_equal(found["input_ids"][0], ids[found["position_ids"][0]])


@pytest.mark.parametrize("name", METHODS)
def test_batch_has_the_models_inputs(dataset, name):
    batch = Collator(METHODS[name], TARGET, seed=0)(list(dataset)[:3])
    assert batch.pop("long").tolist() == [True] * 3
    assert set(batch) == {"input_ids", "position_ids", "attention_mask", "labels"}
    assert all(tensor.shape == (3, N_TOKENS) and tensor.dtype == torch.int64 for tensor in batch.values())
    assert torch.equal(batch["input_ids"], torch.tensor(dataset["input_ids"][:3]))
    assert torch.equal(batch["labels"], batch["input_ids"])
    # Without the mask, transformers would cut attention at jumps.
    assert batch["attention_mask"].eq(1).all()
    contiguous = batch["position_ids"].eq(torch.arange(N_TOKENS)).all()
    # The segments of these rows follow one another in their document.
    assert contiguous == (name in ("flt", "none", "source"))


def test_short_rows_keep_their_own_positions():
    (row,) = rows_of([whole(np.arange(20), np.array([5, 15]))], long=False)
    assert torch.equal(collator()([row | {"key": 0}])["position_ids"], torch.arange(20)[None])


def test_segments_of_a_row_are_its_sentences(rng):
    ids, ends = rng.integers(0, 10, size=60), SentenceEnds(np.arange(10) == 9)
    (row,) = rows_of([sample_of(ids, METHODS["pose"], 40, ends=ends, is_anchor=None, rng=rng)])
    np.testing.assert_array_equal(row["segment_lengths"], sentence_lengths(ids[:40], ends))
    assert row["long"] is True


def test_tokens_seen_counts_whole_batches_over_several_epochs(random_rows, tmp_path):
    rows = [*random_rows(2, n_tokens=8), *random_rows(2, n_tokens=16), *random_rows(1, n_tokens=64)]
    dataset = store(rows, tmp_path / "data")
    # The fifth row does not fill a batch of two.
    assert [tokens_seen(dataset, steps, 2) for steps in range(5)] == [0, 16, 48, 64, 96]
    assert tokens_seen(dataset, 1, 5) == 2 * 8 + 2 * 16 + 64


def test_rows_are_stored_while_they_are_read(random_rows, tmp_path):
    rows, read = random_rows(150), []

    def stream():
        for row in rows:
            # The file exists from the second batch of rows on.
            read.append(len(list(tmp_path.glob(".data.*.tmp"))))
            yield row

    dataset = store(stream(), tmp_path / "data")
    assert dataset["key"][:] == list(range(150)) and len(read) == 150 and read[0] == 0 and read[-1] == 1
    for row, got in zip(rows, dataset, strict=True):
        assert got["input_ids"] == row["input_ids"].tolist() and got["long"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a{1,2}", "a%20b", "a#b", "a b", "[!1]", "é"])
def test_folder_names_are_not_read_as_patterns(name, random_rows, tmp_path):
    store(random_rows(1), tmp_path / "a1" / "set")
    assert len(store(random_rows(3), tmp_path / name / "set")) == 3
    assert len(load_from_disk(str(tmp_path / "a1" / "set"))) == 1


def test_store_without_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no rows to store"):
        store(iter([]), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["cut", "gone"])
@pytest.mark.parametrize("pattern", ["*.arrow", "state.json", "dataset_info.json"])
def test_damaged_set_error_names_the_folder_to_delete(pattern, fault, random_rows, tmp_path):
    store(random_rows(6), tmp_path / "set")
    (path,) = (tmp_path / "set").glob(pattern)
    content = path.read_bytes()
    path.unlink()
    if fault == "cut":
        path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"samples in .*set are damaged .*: delete this folder, and the same command"):
        load(tmp_path / "set")
