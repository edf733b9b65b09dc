"""The text that RULER hides its needles in, and how it is split into sentences."""

import functools
import hashlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.constants import HF_HUB_OFFLINE
from transformers import PreTrainedTokenizerBase

from longrecipe.bench.hub import HubData, load_rows
from longrecipe.data.english import NATURAL_HELD_OUT_EVERY, english_texts
from longrecipe.data.sentences import split_text
from longrecipe.data.textfiles import documents
from longrecipe.data.textwalk import files_of
from longrecipe.system.paths import user_path

ESSAYS = "baber/paul_graham_essays"
ENGLISH = "english"


@dataclass(frozen=True)
class Haystack:
    """Running text, one space between two words. name: of its file or dataset, for the record."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The hash of the text, which the record of a benchmark keeps."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @functools.cached_property
    def words(self) -> list[str]:
        """The words of the text, which prompts are made of."""
        return self.text.split(" ")

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """Raise ValueError if the text has fewer tokens than a length of prompts."""
        tokens = len(tokenizer(" ".join(self.words[:length]), verbose=False)["input_ids"])
        if tokens < length:
            raise ValueError(
                f"the haystack {self.name!r} has {tokens} tokens, fewer than the longest of bench_lengths ({length}): "
                "name a longer text as bench_haystack (--haystack), or leave out the length."
            )


def read_haystack(path: str | None, data: HubData) -> Haystack:
    """The text of a file or of all files below a folder, or Paul Graham's essays from the hub, as in RULER.

    path: in any form that `textfiles.documents` reads; None reads the essays; `english` is the embedded English,
    beginning with the texts on which runs without a text of their own are not trained. Raises FileNotFoundError and
    ValueError that say what is missing.
    """
    if path is None:
        parts, name = [row["text"] for row in load_rows(ESSAYS, "train", data)], ESSAYS
    elif path == ENGLISH:
        texts = english_texts(planted=False)
        parts = texts[::NATURAL_HELD_OUT_EVERY]
        parts += [text for i, text in enumerate(texts) if i % NATURAL_HELD_OUT_EVERY]
        name = ENGLISH
    else:
        files, _ = files_of(user_path(path))
        parts, name = [_plain(document.content) for document in documents(files)], Path(path).name
    text = " ".join(" ".join(parts).split())
    if not text:
        raise ValueError(f"bench_haystack = {path!r}: has no text; name another file.")
    return Haystack(name, text)


def _plain(content: str | list[dict]) -> str:
    """The text of a document; of a conversation, its messages."""
    return content if isinstance(content, str) else " ".join(str(message["content"]) for message in content)


@functools.cache
def sentence_splitter() -> tuple[str, Callable[[str], list[str]]]:
    """How text is split into sentences: by nltk's punkt if its data are there or can be downloaded, as in RULER, else
    by this kit's own rule. Returns the name for the record, and the function."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        with redirect_stdout(io.StringIO()):
            if HF_HUB_OFFLINE or not nltk.download("punkt_tab", quiet=True, print_error_to=io.StringIO()):
                return "longrecipe", functools.lru_cache(maxsize=64)(split_text)
    return f"nltk {nltk.__version__} punkt_tab", functools.lru_cache(maxsize=64)(nltk.sent_tokenize)
