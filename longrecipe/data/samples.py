"""Training samples: cut from documents, stored, put in order, and stacked into batches with positions."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, load_from_disk

from longrecipe.data.selection import Sample, select, whole
from longrecipe.data.sentences import SentenceEnds, sentence_lengths
from longrecipe.positions import METHODS, Method
from longrecipe.system.errors import reason
from longrecipe.system.files import new_folder, temporary_of

# The label of a token without a loss.
IGNORE = -100
# The entry of batches with skipped positions of short samples.
SKIPPED = "skipped_position_ids"
# The column of rows, and the entry of batches, with the weight of each token's loss.
WEIGHTS = "loss_weights"


def sample_of(
    ids: np.ndarray,
    method: Method,
    n_tokens: int,
    *,
    ends: SentenceEnds,
    is_anchor: np.ndarray | None,
    rng: np.random.Generator,
    selection: str = "anchored",
    shift: np.ndarray | None = None,
) -> Sample:
    """One training sample: n_tokens of a document, with its sentences as segments.

    Methods that select sentences get them from the whole document, other methods the first n_tokens.
    Args: ids int64 [T]; ends, from `sentences.sentence_ends`; is_anchor bool [T]; selection, one of
    `selection.SELECTIONS`; shift float [T]. Raises ValueError if the selection needs anchors or shifts and they are
    None.
    """
    if method.text != "selected":
        return whole(ids[:n_tokens], sentence_lengths(ids[:n_tokens], ends))
    lengths = sentence_lengths(ids, ends)
    return select(ids, lengths, is_anchor, n_tokens=n_tokens, rng=rng, how=selection, shift=shift)


def rows_of(samples: Iterable[Sample], long: bool = True) -> Iterator[dict]:
    """Dataset rows of samples. Long rows get the method's positions, other rows the positions 0, 1, 2, ..."""
    for ids, lengths, starts in samples:
        yield {"input_ids": ids, "segment_lengths": lengths, "segment_starts": starts, "long": long}


def store(rows: Iterable[dict], folder: Path) -> Dataset:
    """Write rows to a folder, each with its own key, and return the stored, memory-mapped set.

    Rows are read 64 at a time, so a set may be larger than the memory. The folder appears when it is complete.
    Raises ValueError if there are no rows.
    """
    # Not by Dataset.from_generator: it wraps the errors that rows raise, and is no faster.
    keyed, writer = ({"key": i, **row} for i, row in enumerate(rows)), None
    stream = temporary_of(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        while some := list(itertools.islice(keyed, 64)):
            table = pa.table({name: [row[name] for row in some] for name in some[0]})
            writer = writer or pa.ipc.new_stream(str(stream), table.schema)
            writer.write_table(table)
        if writer is None:
            raise ValueError(f"no rows to store in {folder}.")
        writer.close()
        with new_folder(folder) as temporary:
            Dataset.from_file(str(stream)).save_to_disk(str(temporary))
    finally:
        stream.unlink(missing_ok=True)
    return load(folder)


def load(folder: Path) -> Dataset:
    """Load a stored set. Raises ValueError, with the folder's name, if its files are damaged or missing."""
    try:
        return load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the samples in {folder} are damaged ({reason(error)}): delete this folder, and the same command makes "
            "them again."
        ) from error


def interleave(long_rows: Iterable[dict], short_rows: Iterable[dict], batch_size: int) -> list[dict]:
    """Order rows so that each batch has only long or only short rows, with the long batches evenly spread.

    Rows of different lengths cannot be in one batch without padding. Rows after the last whole batch are left out.
    """

    def placed(rows: list[dict]) -> list[tuple[float, list[dict]]]:
        count = len(rows) // batch_size
        return [((i + 0.5) / count, rows[i * batch_size : (i + 1) * batch_size]) for i in range(count)]

    batches = placed(list(long_rows)) + placed(list(short_rows))
    return [row for _, batch in sorted(batches, key=lambda b: b[0]) for row in batch]


class Collator:
    """Stack rows of equal length into a batch, and draw new positions for each row in each epoch.

    The generator is seeded from (seed, epoch, key of the row) only, so the positions do not depend on the number of
    loader workers or on whether a run was resumed. Each batch has an attention mask of ones: without it, transformers
    mistakes jumps in the positions for packed documents and cuts attention there (see `longrecipe.train.guard`).

    With skip, batches of short rows also have skipped_position_ids: CREAM's, as in LongReD.
    """

    def __init__(self, method: Method, target_length: int, seed: int, *, epoch: int = 0, skip: bool = False):
        self.method, self.target_length, self.seed, self.skip = method, target_length, seed, skip
        # Shared memory, so that persistent workers see when the next epoch begins.
        self._epoch = torch.tensor(epoch).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that positions are drawn for, in all processes of the loader."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def positions(self, row: dict) -> np.ndarray:
        """The position_ids of a row, int64 [n]."""
        if not row["long"]:
            return np.arange(len(row["input_ids"]))
        return self._drawn(self.method, row)

    def _drawn(self, method: Method, row: dict) -> np.ndarray:
        return method.draw(row, self.target_length, np.random.default_rng([self.seed, self.epoch, row["key"]]))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(np.stack([np.asarray(row["input_ids"], dtype=np.int64) for row in rows]))
        positions = torch.from_numpy(np.stack([self.positions(row) for row in rows]))
        batch = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "labels": ids}
        if WEIGHTS in rows[0]:
            batch[WEIGHTS] = torch.from_numpy(np.stack([np.asarray(row[WEIGHTS], dtype=np.float32) for row in rows]))
        if self.skip and not rows[0]["long"]:
            skipped = [self._drawn(METHODS["cream"], row) for row in rows]
            batch[SKIPPED] = torch.from_numpy(np.stack(skipped))
        # For the trainer, which removes it before it calls the model.
        return batch | {"long": torch.tensor([bool(row["long"]) for row in rows])}


def tokens_seen(dataset: Dataset, steps: int, batch_size: int) -> int:
    """The number of tokens that `steps` steps read. Only whole batches are read; after the last one the first again."""
    tables = dataset.select_columns("input_ids").with_format("arrow").iter(1024)
    sizes = np.concatenate([pc.list_value_length(table["input_ids"]).to_numpy() for table in tables])
    whole = len(sizes) // batch_size * batch_size
    rows = np.arange(steps * batch_size) % whole
    return int(sizes[rows].sum())
