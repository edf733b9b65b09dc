"""Text from a hub of datasets, streamed: only its tokens are kept."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedTokenizerBase

from longrecipe import models
from longrecipe.data.corpus import Corpus
from longrecipe.data.holdout import HELD_OUT_EVERY
from longrecipe.data.textcolumns import Document, documents_of
from longrecipe.data.textfiles import tokenise
from longrecipe.data.textrows import Row
from longrecipe.data.textwalk import Report
from longrecipe.system.errors import reason
from longrecipe.system.paths import is_hub_id, split_revision, user_path

log = logging.getLogger(__name__)
# How long a check waits for a hub, in seconds.
_SECONDS = 10.0


@dataclass(frozen=True)
class HubText:
    """A dataset of a hub: its id, its split, and, if it contains token ids, the tokenizer that made them.

    revision: commit, tag or branch; None takes the latest commit, which is recorded with the text.
    """

    id: str
    split: str = "train"
    tokenizer: str | None = None
    revision: str | None = None


# The paper's long text (domains balanced, long documents upsampled; Fu et al. 2024), which contains token ids of
# Llama-2's tokenizer, and the two datasets that it replays. No commit of them is known, so the latest one is read.
PRESETS = {
    "slimpajama": HubText(
        "yaofu/slimpajama-per-source-length-upsample",
        tokenizer="meta-llama/Llama-2-7b-hf@01c7f73d771dfac7d292323805ebc428287df4f9",
    ),
    "magicoder": HubText("ise-uiuc/Magicoder-OSS-Instruct-75K"),
    "wizardlm": HubText("WizardLMTeam/WizardLM_evol_instruct_70k"),
}


def is_hub_text(name: str) -> bool:
    """Whether a name is one of PRESETS, or has the form of a hub's id, owner/name. Both may end with @revision."""
    return split_revision(name)[0] in PRESETS or is_hub_id(name)


def _named(name: str) -> HubText:
    name, revision = split_revision(name)
    hub = PRESETS.get(name, HubText(name))
    return replace(hub, revision=revision) if revision else hub


def load_hub_text(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    held_out_every: int = HELD_OUT_EVERY,
    most_tokens: int | None = None,
    text_column: str | None = None,
) -> Corpus:
    """Load a dataset of a hub by its id or a name in PRESETS, row by row, and tokenise it as `textfiles.load_files`.

    Rows of token ids (a column input_ids) are decoded with the tokenizer that the preset names, and split into
    documents at its special tokens. The tokens stay in the cache, together with the commit of the dataset; later
    commits are not noticed.
    Args: most_tokens, reading stops within 64 documents of this number; held_out_every and text_column, as for
    `load_files`. Raises FileNotFoundError if no hub has the dataset, ConnectionError if the connection breaks off, and
    ValueError if the dataset has no column of text.
    """
    hub, report = _named(name), Report()
    source = [hub.id, hub.split, hub.tokenizer, hub.revision, text_column]
    return tokenise(
        _documents(hub, text_column, report),
        tokenizer,
        name=hub.id.replace("/", "--"),
        source=source,
        held_out_every=held_out_every,
        most_tokens=most_tokens,
        label=f"text = {hub.id!r}",
        report=report,
    )


def check_hub_text(name: str) -> None:
    """Raise FileNotFoundError if no hub has the dataset with this id or name in PRESETS, or not this revision."""
    _commit(_named(name))


def _commit(hub: HubText) -> str:
    """The commit of a dataset's revision."""
    try:
        return HfApi().dataset_info(hub.id, revision=hub.revision, timeout=_SECONDS).sha
    except Exception as error:  # The exceptions of the hub's client differ between its versions.
        raise _not_there(hub, error) from error


def _documents(hub: HubText, text_column: str | None, report: Report) -> Iterator[Document]:
    commit = _commit(hub)
    report.hub = f"{hub.id}@{commit}"
    rows = _rows(replace(hub, revision=commit))
    if hub.tokenizer is None:
        yield from documents_of(rows, hub.id, text_column, report=report)
        return
    before = models.load_tokenizer(hub.tokenizer, "paper")
    for row, place, _ in rows:
        for text in decoded(np.asarray(row["input_ids"]), before):
            yield Document(text, f"{hub.id}, {place}")


def _rows(hub: HubText) -> Iterator[Row]:
    n_rows = 0
    try:
        log.info("reading %s row by row", hub.id)
        for row in load_dataset(hub.id, revision=hub.revision, split=hub.split, streaming=True):
            n_rows += 1
            yield Row(row, f"row {n_rows}")
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        if n_rows:
            raise ConnectionError(
                f"text = {hub.id!r}: the connection broke off after {n_rows:,} rows ({reason(error)}): start it again."
            ) from error
        raise _not_there(hub, error) from error


def _not_there(hub: HubText, error: Exception) -> FileNotFoundError:
    revision = f" and revision {hub.revision}" if hub.revision else ""
    return FileNotFoundError(
        f"text = {hub.id!r}: there is no file or folder {user_path(hub.id)}, and no dataset of a hub with "
        f"this name{revision} ({reason(error)}): check the name, log in with `hf auth login` if the dataset is gated, "
        "or name a folder with text."
    )


def decoded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The documents in a row of token ids [n]: the texts between special tokens, without blank ones.

    Example: for special tokens <s> and </s>, the ids of `<s>One.</s><s>Two.` give `One.` and `Two.`.
    """
    bounds = np.flatnonzero(np.isin(ids, tokenizer.all_special_ids))
    for start, end in pairwise([-1, *bounds.tolist(), len(ids)]):
        text = tokenizer.decode(ids[start + 1 : end].tolist())
        if text.strip():
            yield text
