"""What kind of token it is: by tokenizer class, by token id, by part of speech, or by its place in a planted fact."""

import functools
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.facts import FactFormat
from longrecipe.data.sentences import sentence_ends, sentence_lengths, token_strings
from longrecipe.tokens.taggers import UNIVERSAL, tagger

CLASSES = ("number", "word", "capitalised word", "word part", "punctuation", "newline", "other")
TYPES = ("class", "pos", "token")
# Whole numbers; clitics (n't, 's, 're) separately, as taggers expect; words with inner hyphens and apostrophes.
_WORDS = re.compile(
    r"\d+(?:[.,:]\d+)*|[^\W\d]+?(?=n['’]t\b)|n['’]t\b|['’](?:s|re|ve|d|ll|m)\b|[^\W_]+(?:[-'’](?!(?:s|re|ve|d|ll|m)\b)\w+)*"
    r"|_+|[^\w\s]"
)


@dataclass(frozen=True)
class TokenTypes:
    """A classification of tokens: the names of the types, and `of`, from ids (int64 [L]) to types (int64 [L])."""

    by: str
    names: tuple[str, ...]
    of: Callable[[np.ndarray], np.ndarray]

    def mask(self, ids: np.ndarray, chosen: list[str]) -> np.ndarray:
        """Which tokens of a document have one of the chosen types, bool [L]. Raises ValueError for unknown names."""
        unknown = sorted(set(chosen) - set(self.names))
        if unknown:
            raise ValueError(f"no token types {unknown} by {self.by}: there are {', '.join(self.names[:40])}.")
        return np.isin(self.of(ids), [self.names.index(name) for name in chosen])


def types_by_class(tokenizer: PreTrainedTokenizerBase) -> TokenTypes:
    """Types by the decoded text of each token: CLASSES. Needs no tagger and is exact for any tokenizer.

    Example: `" 42", " the", "ing", "."` are number, word, word part, punctuation.
    """
    of_id = np.array([CLASSES.index(_class_of(text)) for text in token_strings(tokenizer)])
    return TokenTypes("class", CLASSES, lambda ids: of_id[ids])


def types_by_fact(tokenizer: PreTrainedTokenizerBase, facts: FactFormat) -> TokenTypes:
    """Types as by class, but the numbers of planted facts are two types of their own.

    `number, new` is random, so no model can predict it. `number, recall` repeats an earlier fact, so a model that reads
    far enough can. Other numbers keep the type `number`. Words that are values of facts have these types, too.
    """
    classes, kinds = types_by_class(tokenizer), {"number, new": facts.note, "number, recall": facts.recall}
    names = (*CLASSES, *kinds)

    def of(ids: np.ndarray) -> np.ndarray:
        found = classes.of(ids)
        for kind, opening in kinds.items():
            # A statement is its opening, a key and the value.
            starts = np.flatnonzero(ids[: -len(opening) - 1] == opening[0])
            starts = starts[(ids[starts[:, None] + np.arange(len(opening))] == opening).all(axis=1)]
            places = starts + len(opening) + 1
            found[places[np.isin(ids[places], facts.values)]] = names.index(kind)
        return found

    return TokenTypes("fact", names, of)


def types_by_token(tokenizer: PreTrainedTokenizerBase) -> TokenTypes:
    """One type for each token id, named by id and text, for instance `42 ' the'`."""
    names = tuple(f"{i} {text!r}" for i, text in enumerate(token_strings(tokenizer)))
    return TokenTypes("token", names, lambda ids: np.asarray(ids, dtype=np.int64))


def types_by_pos(tokenizer: PreTrainedTokenizerBase, tagger_name: str = "hanta") -> TokenTypes:
    """Types by part of speech: universal tags, and SPACE for tokens that are only blanks and newlines.

    The tokens of a document are decoded and joined, so the place of each token in the text is exact. The text is split
    into sentences and words, each sentence is tagged, and a token gets the tag of the word that contains its first
    nonblank character. Parts of one word share its tag. A character that the tokenizer splits reads as U+FFFD.
    Raises TaggerError if the tagger is not installed.
    """
    strings = np.array(token_strings(tokenizer), dtype=object)
    ends = sentence_ends(tokenizer)
    # The documents of a run overlap if their text is short, and tagging is slow.
    tag = functools.lru_cache(maxsize=2**17)(tagger(tagger_name))
    names = (*UNIVERSAL, "SPACE")
    index = {name: i for i, name in enumerate(names)}

    # The same documents are often ranked more than once, and tagging is slow.
    @functools.lru_cache(maxsize=64)
    def tagged(document: bytes) -> np.ndarray:
        ids = np.frombuffer(document, dtype=np.int64)
        pieces = strings[ids].tolist()
        places = np.cumsum([0, *map(len, pieces)])
        text = "".join(pieces)
        of_character = np.full(len(text) + 1, index["SPACE"])
        start = 0
        for stop in places[np.cumsum(sentence_lengths(ids, ends))]:
            words = list(_WORDS.finditer(text, start, stop))
            tags = tag(tuple(word[0] for word in words)) if words else []
            for word, each in zip(words, tags, strict=True):
                of_character[word.start() : word.end()] = index[each]
            start = stop
        blanks = [len(piece) - len(piece.lstrip()) if piece.strip() else 0 for piece in pieces]
        return of_character[places[:-1] + np.array(blanks, dtype=np.int64)]

    def of(ids: np.ndarray) -> np.ndarray:
        return tagged(np.asarray(ids, dtype=np.int64).tobytes()).copy()

    return TokenTypes("pos", names, of)


def _class_of(text: str) -> str:
    bare = text.strip(" ")
    if any(c.isdigit() for c in bare):
        return "number"
    if "\n" in bare:
        return "newline"
    if bare.isalpha():
        if text.startswith(" "):
            return "capitalised word" if bare[0].isupper() else "word"
        return "word part"
    return "punctuation" if bare and bare.isascii() and bare.isprintable() else "other"
