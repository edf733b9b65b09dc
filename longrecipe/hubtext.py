"""Text from a hub of datasets, streamed: nothing is kept but its tokens."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from datasets import load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from transformers import PreTrainedTokenizerBase

from longrecipe import models
from longrecipe.corpus import Corpus
from longrecipe.errors import reason
from longrecipe.textfiles import texts_of, tokenised

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HubText:
    """A dataset of a hub: its id, its split, and for one that holds token ids the tokenizer they were made with."""

    id: str
    split: str = "train"
    tokenizer: str | None = None


# The paper's long text (domains balanced, lengths upsampled; Fu et al. 2024), which holds ids of Llama-2's tokenizer;
# and the two that it replays.
PRESETS = {
    "slimpajama": HubText("yaofu/slimpajama-per-source-length-upsample", tokenizer="meta-llama/Llama-2-7b-hf"),
    "magicoder": HubText("ise-uiuc/Magicoder-OSS-Instruct-75K"),
    "wizardlm": HubText("WizardLMTeam/WizardLM_evol_instruct_70k"),
}


def is_hub_text(name: str) -> bool:
    """Whether a name is one of PRESETS, or has the form of a hub's id, owner/name."""
    return name in PRESETS or models.is_hub_id(name)


def load_hub_text(
    name: str, tokenizer: PreTrainedTokenizerBase, held_out_every: int = 20, most_tokens: int | None = None
) -> Corpus:
    """A dataset of a hub by id or by a name of PRESETS, read row by row, tokenised as `textfiles.load_files` does.

    Rows of token ids (a column input_ids) are decoded by the tokenizer that the preset names, and cut into documents
    where it has put its special tokens. What has been read stays in the cache as it was on that day.
    Args: most_tokens: reading stops within 64 documents of so many. Raises FileNotFoundError where no hub gives the
    dataset, ConnectionError where reading breaks off, ValueError for one without a column of text.
    """
    hub = PRESETS.get(name, HubText(name))
    source = [hub.id, hub.split, hub.tokenizer]
    return tokenised(_documents(hub), tokenizer, hub.id.replace("/", "--"), source, held_out_every, most_tokens)


def _documents(hub: HubText) -> Iterator[str]:
    rows = _rows(hub)
    if hub.tokenizer is None:
        yield from texts_of(rows, hub.id)
        return
    before = models.load_tokenizer(hub.tokenizer, "paper")
    for row in rows:
        yield from decoded(np.asarray(row["input_ids"]), before)


def _rows(hub: HubText) -> Iterable[Mapping]:
    n_rows = 0
    try:
        log.info("reading %s, row by row", hub.id)
        for row in load_dataset(hub.id, split=hub.split, streaming=True):
            yield row
            n_rows += 1
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        if n_rows:
            told = f"text = {hub.id!r}: reading broke off after {n_rows:,} rows ({reason(error)}): start it again."
            raise ConnectionError(told) from error
        raise FileNotFoundError(
            f"text = {hub.id!r}: no such file or folder, and no hub of datasets gave it ({reason(error)}): check the "
            "name, log in with `hf auth login` where it is gated, or name a folder with text."
        ) from error


def decoded(ids: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """The documents of a row of token ids [n]: the texts between its special tokens, those without a word left out.

    Example: with special tokens <s> and </s>, the ids of `<s>One.</s><s>Two.` give `One.` and `Two.`.
    """
    bounds = np.flatnonzero(np.isin(ids, tokenizer.all_special_ids))
    for start, end in pairwise([-1, *bounds.tolist(), len(ids)]):
        text = tokenizer.decode(ids[start + 1 : end].tolist())
        if text.strip():
            yield text
