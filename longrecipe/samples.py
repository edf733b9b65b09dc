"""Samples of training: documents cut to what a method reads, stored, ordered, stacked into batches with positions."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, load_from_disk

from longrecipe.corpus import Sample, as_it_stands, select, sentence_lengths
from longrecipe.positions import Method


def sample_of(
    ids: np.ndarray,
    method: Method,
    n_tokens: int,
    ends: np.ndarray,
    is_anchor: np.ndarray | None,
    rng: np.random.Generator,
    selection: str = "anchored",
) -> Sample:
    """One training sample of a document: n_tokens of it, in sentences, as the method reads text.

    Args: ids int64 [T]; ends bool [vocabulary]; is_anchor bool [T]; selection, of `corpus.SELECTIONS`, for methods that
    select sentences. Raises ValueError where the selection goes by anchors and is_anchor is None.
    """
    if method.text != "selected":
        return as_it_stands(ids[:n_tokens], sentence_lengths(ids[:n_tokens], ends))
    return select(ids, sentence_lengths(ids, ends), is_anchor, n_tokens, rng, selection)


def rows_of(samples: Iterable[Sample], long: bool = True) -> list[dict]:
    """Dataset rows of samples; long rows get the method's positions, others 0, 1, 2, ..."""
    return [
        {"input_ids": ids, "segment_lengths": lengths, "segment_starts": starts, "long": long}
        for ids, lengths, starts in samples
    ]


def store(rows: list[dict], folder: Path) -> Dataset:
    """Write rows to folder with `datasets`, each with its own key, and return the stored, memory-mapped set."""
    rows = [{"key": i, **row} for i, row in enumerate(rows)]
    temporary = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    Dataset.from_list(rows).save_to_disk(str(temporary))
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return load_from_disk(str(folder))


def interleave(long_rows: list[dict], short_rows: list[dict], batch_size: int) -> list[dict]:
    """Order rows so that every batch is all long or all short, the long batches spread evenly among the short.

    Rows of different lengths cannot share a batch without padding. Rows beyond the last whole batch are left out.
    """

    def placed(rows: list[dict]) -> list[tuple[float, list[dict]]]:
        count = len(rows) // batch_size
        return [((i + 0.5) / count, rows[i * batch_size : (i + 1) * batch_size]) for i in range(count)]

    return [row for _, batch in sorted(placed(long_rows) + placed(short_rows), key=lambda b: b[0]) for row in batch]


class Collator:
    """Stack rows of one length into a batch, drawing each sample's positions anew for every epoch.

    The generator is seeded from (seed, epoch, key of the row) alone, so that any number of loader workers, and a run
    that was resumed, give the same positions. Every batch carries an all-ones attention mask: without one,
    transformers takes positions that jump for packed documents and cuts attention (see `longrecipe.attention`).
    """

    def __init__(self, method: Method, target_length: int, seed: int, epoch: int = 0):
        self.method, self.target_length, self.seed = method, target_length, seed
        # Shared, so that workers that outlive an epoch see the next one begin.
        self._epoch = torch.tensor(epoch).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that positions are drawn for, in every process of the loader."""
        return int(self._epoch)

    @epoch.setter
    def epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)

    def positions(self, row: dict) -> np.ndarray:
        """position_ids int64 [n] of a row."""
        if not row["long"]:
            return np.arange(len(row["input_ids"]))
        return self.method.draw(row, self.target_length, np.random.default_rng([self.seed, self.epoch, row["key"]]))

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = torch.from_numpy(np.stack([np.asarray(row["input_ids"], dtype=np.int64) for row in rows]))
        positions = torch.from_numpy(np.stack([self.positions(row) for row in rows]))
        batch = {"input_ids": ids, "position_ids": positions, "attention_mask": torch.ones_like(ids), "labels": ids}
        # Not for the model: the trainer takes it out again.
        return batch | {"long": torch.tensor([bool(row["long"]) for row in rows])}


def tokens_seen(dataset: Dataset, steps: int, batch_size: int) -> int:
    """Tokens that so many steps read of a set, whole batches only, round after round."""
    sizes = np.array([len(ids) for ids in dataset["input_ids"]])
    whole = len(sizes) // batch_size * batch_size
    rows = np.arange(steps * batch_size) % whole
    return int(sizes[rows].sum())
