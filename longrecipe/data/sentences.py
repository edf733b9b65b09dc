"""Sentence splitting on tokens: the text of each token, and which tokens end a sentence."""

import functools
import itertools
import re
import sys
from dataclasses import dataclass

import numpy as np
import regex
from transformers import PreTrainedTokenizerBase

# The rule for ASCII terminals reads one token at a time, so "3.5" and "e.g" inside a token do not end a sentence.
_ASCII_END = re.compile(r"\n|[.!?][\"'\u2019\u201d)\]}]*[ \t]*$")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_PART = "\ufffd"


@dataclass(frozen=True)
class SentenceEnds:
    """Which tokens of a document end a sentence. Call it with ids, int64 [n]; it returns bool [n].

    by_id: bool [vocabulary], tokens that end a sentence in any context. pieces: the UTF-8 bytes of each token, to find
    the terminals of other scripts; None if by_id is the only rule.
    Example: with `SentenceEnds(np.arange(10) == 9)` token 9 ends each sentence.
    """

    by_id: np.ndarray
    pieces: tuple[bytes, ...] | None = None

    @functools.cached_property
    def _may_end(self) -> np.ndarray:
        """Tokens with a terminal that is not ASCII, or with bytes that may be part of one."""
        return np.array([_may_end(piece) for piece in self.pieces or ()], dtype=bool)

    @functools.cached_property
    def _sizes(self) -> np.ndarray:
        return np.array([len(piece) for piece in self.pieces or ()], dtype=np.int64)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        ends = self.by_id[ids]
        if self.pieces is None or not self._may_end[ids].any():
            return ends
        # Bytes that are not valid UTF-8 become lone surrogates, so that each byte keeps its place in the text.
        text = b"".join([self.pieces[i] for i in ids.tolist()]).decode("utf-8", "surrogateescape")
        found = np.array([match.span() for match in _other_ends().finditer(text)], dtype=np.int64).reshape(-1, 2)
        found = np.append(0, np.cumsum(_utf8_sizes(text)))[found]
        stops = np.cumsum(self._sizes[ids])
        # The first token of each run of terminals and closers, and the token that completes the run.
        first = np.searchsorted(stops - self._sizes[ids], found[:, 0])
        last = np.searchsorted(stops, found[:, 1])
        for i, j in zip(first[first < last].tolist(), last[first < last].tolist(), strict=True):
            ends[i:j] = False
        ends[last] = True
        return ends


def sentence_ends(tokenizer: PreTrainedTokenizerBase) -> SentenceEnds:
    """The rule for sentence ends in a tokenizer's texts, in all scripts.

    A token ends a sentence if its decoded text has a newline, or if it ends in `.`, `!` or `?`, perhaps followed by
    closing quotes, closing brackets and blanks. A terminal that is not ASCII (Unicode property Sentence_Terminal, for
    instance `。`, `؟` and `।`) ends a sentence anywhere in a token. It is found in the document's bytes, because many
    tokenizers split it into several tokens. Terminals, closing quotes and closing brackets that follow it directly
    belong to the same sentence, so the sentence ends with the token that completes the last of them. The line
    separators U+0085, U+2028 and U+2029 count as newlines.
    Example: `"."`, `".)"` and `":\\n"` end a sentence, but `".5"` and `".com"` do not. Of the tokens `"好"`, `"。"`,
    `"」"` only the third ends one.
    """
    return _sentence_ends(_Vocabulary(tokenizer))


def sentence_lengths(ids: np.ndarray, ends: SentenceEnds) -> np.ndarray:
    """Token counts of the sentences of a document; the end token belongs to its sentence (paper, section 4.2).

    Args: ids int64 [T]; ends, from `sentence_ends`. Returns int64 [N] with sum T.
    Example: with end token 9, `[1, 2, 9, 3, 4]` gives `[3, 2]`.
    """
    stops = np.flatnonzero(ends(ids)) + 1
    bounds = np.unique(np.concatenate([[0], stops, [len(ids)]]))
    return np.diff(bounds)


def token_strings(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The decoded text of each token id inside a text, `[vocabulary]`; computed once per vocabulary.

    Each id is decoded after a letter, because some tokenizers drop the blank before the first word of a text. A token
    that is only part of a character is decoded as U+FFFD.
    """
    return list(_token_strings(_Vocabulary(tokenizer)))


def split_text(text: str) -> list[str]:
    """Split a text into sentences: after `.`, `!` or `?` with a blank behind, and after the terminals of other scripts.

    Example: `"It is 3.5 m. 好。Yes"` gives `It is 3.5 m.`, `好。` and `Yes`.
    """
    ends = [match.end() for match in re.finditer(r"[.!?][\"'\u2019\u201d)\]}]*(?=\s)", text)]
    ends += [match.end() for match in _other_ends().finditer(text)]
    parts = [text[start:end].strip() for start, end in itertools.pairwise([0, *sorted(set(ends)), len(text)])]
    return [part for part in parts if part]


class _Vocabulary:
    """A tokenizer as a cache key: equal if class and vocabulary are equal."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.key = (type(tokenizer).__name__, len(tokenizer), frozenset(tokenizer.get_vocab().items()))
        self.hash = hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Vocabulary) and self.key == other.key

    def __hash__(self) -> int:
        return self.hash


@functools.lru_cache(maxsize=16)
def _token_strings(vocabulary: _Vocabulary) -> tuple[str, ...]:
    tokenizer = vocabulary.tokenizer
    before = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    cut = len(tokenizer.decode(before))
    texts = tokenizer.batch_decode([[*before, i] for i in range(len(tokenizer))])
    return tuple(text[cut:] for text in texts)


@functools.lru_cache(maxsize=16)
def _sentence_ends(vocabulary: _Vocabulary) -> SentenceEnds:
    strings = _token_strings(vocabulary)
    tokens = vocabulary.tokenizer.convert_ids_to_tokens(list(range(len(strings))))
    by_id = np.array([bool(_ASCII_END.search(text)) for text in strings])
    return SentenceEnds(by_id, tuple(map(_bytes_of, strings, tokens)))


def _bytes_of(text: str, token: str | None) -> bytes:
    """The UTF-8 bytes of a token: from its decoded text, or from its name if it is part of a character."""
    if token and (_PART in text or not text):
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        alphabet = _byte_alphabet()
        if all(letter in alphabet for letter in token):
            return bytes(alphabet[letter] for letter in token)
    return text.encode("utf-8", "replace")


def _may_end(piece: bytes) -> bool:
    if piece.isascii():
        return False
    text = piece.decode("utf-8", "surrogateescape")
    return bool(_other_ends().search(text)) or any("\udc80" <= letter <= "\udcff" for letter in text)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Letters that represent bytes: those of GPT-2 (byte-level BPE), and the character of the same number (ByT5)."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {chr(byte): byte for byte in range(256)} | {letter: byte for byte, letter in bytes_to_unicode().items()}


@functools.cache
def _other_ends() -> re.Pattern[str]:
    """A pattern for line separators, and for terminals that are not ASCII with the terminals and closers after them."""
    letters = "".join(map(chr, range(sys.maxunicode + 1)))
    ends = "".join(regex.findall(r"\p{Sentence_Terminal}", letters))
    # Without initial quotes (Pi): after a full stop, such a quote opens the next sentence in Chinese dialogue.
    closers = "".join(regex.findall(r"[\p{Pe}\p{Pf}\"'\uff02\uff07]", letters))
    begins = "".join(letter for letter in ends if not letter.isascii())
    return re.compile(f"[{re.escape(begins)}][{re.escape(ends + closers)}]*|[\u0085\u2028\u2029]")


def _utf8_sizes(text: str) -> np.ndarray:
    """The number of UTF-8 bytes of each character, int64. A lone surrogate stands for one byte."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    sizes = np.searchsorted([0x80, 0x800, 0x10000], points, side="right") + 1
    return np.where((points >= 0xDC80) & (points <= 0xDCFF), 1, sizes)
