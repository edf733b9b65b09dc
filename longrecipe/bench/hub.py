"""The datasets of the benchmarks: in a local folder in the hub's own layout, or from the hub."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError

from longrecipe.system.errors import reason
from longrecipe.system.paths import cache_dir, user_path

# What the harness downloads for RULER's two question-answering tasks: the file names, and where they are.
QA_FILES = {
    "ruler_qa_squad": ("dev-v2.0.json", "https://rajpurkar.github.io/SQuAD-explorer/dataset/dev-v2.0.json"),
    "ruler_qa_hotpot": (
        "hotpot_dev_distractor_v1.json",
        "https://huggingface.co/datasets/namlh2004/hotpotqa/resolve/7e54db4656209750ff487f6fdf8e39a66dba136b/"
        "hotpot_dev_distractor_v1.json",
    ),
}


class MissingDataError(FileNotFoundError):
    """A dataset, file or metric is neither in the folder of the data nor can it be downloaded."""


@dataclass(frozen=True)
class HubData:
    """Where datasets are read from. folder: with a folder for each dataset, such as `openai/gsm8k`; None reads all of
    them from the hub."""

    folder: Path | None = None

    def source(self, dataset: str) -> str:
        """What `load_dataset` reads a dataset from: its folder if there is one, else its id."""
        here = self.folder / dataset if self.folder else None
        return str(here) if here and here.is_dir() else dataset

    def options(self, dataset: str) -> dict[str, str]:
        """Further arguments of `load_dataset`: a cache of its own for each state of a local folder, because `datasets`
        does not notice that the files of a folder have changed."""
        here = Path(self.source(dataset))
        if not here.is_dir():
            return {}
        files = sorted(path for path in here.rglob("*") if path.is_file())
        stamps = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:10]
        return {"cache_dir": str(cache_dir() / "bench" / "datasets" / f"{here.name}-{digest}")}

    def file(self, name: str) -> Path | None:
        """A file of the folder `ruler`, None if it is not there."""
        here = self.folder / "ruler" / name if self.folder else None
        return here if here and here.is_file() else None


def hub_data(folder: str | None) -> HubData:
    """The data of a folder that a user names. Raises NotADirectoryError if there is none."""
    if folder is not None and not user_path(folder).is_dir():
        raise NotADirectoryError(
            f"bench_data = {folder!r}: {user_path(folder)} is no folder; name one, or leave it out."
        )
    return HubData(user_path(folder) if folder else None)


def load_rows(dataset: str, split: str, data: HubData) -> Iterator[dict[str, Any]]:
    """The rows of a dataset. Raises MissingDataError that says where it is looked for."""
    try:
        yield from load_dataset(data.source(dataset), split=split, **data.options(dataset))
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise missing(dataset, None, data, error) from error


def missing(dataset: str, config: str | None, data: HubData, error: Exception) -> MissingDataError:
    """The error for a dataset that cannot be read: it names the folder, the configuration and the command."""
    part = f" with a configuration {config!r}" if config else ""
    here = (data.folder / dataset) if data.folder else Path("DATA") / dataset
    found = "cannot be read" if here.is_dir() else "is missing"
    return MissingDataError(
        f"the dataset {dataset}{part}: {here} {found}, and it cannot be downloaded ({reason(error)}): download it on a "
        f"machine with a connection, `hf download {dataset} --repo-type dataset --local-dir {here}`, and name the "
        f"folder {here.parents[len(Path(dataset).parts) - 1]} as bench_data (--data)."
    )


def missing_file(path: str, url: str, data: HubData, error: Exception) -> MissingDataError:
    """The error for a single file that a suite needs, with its place below the folder of the data and its address."""
    here = (data.folder or Path("DATA")) / path
    return MissingDataError(
        f"{here} is missing, and it cannot be downloaded ({reason(error)}): get it from {url} on a machine with a "
        f"connection, and name the folder {data.folder or 'DATA'} as bench_data (--data)."
    )
