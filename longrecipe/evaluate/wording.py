"""How the long-context tasks are put into words: planted facts for the mini models, sentences for any tokenizer."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from longrecipe.data.facts import keys_and_values
from longrecipe.data.sentences import SentenceEnds, sentence_ends, token_strings

# Tokens of a continuation beyond each answer.
MARGIN = 8
# The parts of the keys of `sentences`.
ADJECTIVES = (
    "amber ancient bitter brave bright broken bronze calm careful clever cold curious distant eager early faint fancy "
    "fierce gentle golden grand green happy heavy hidden hollow honest humble jolly lazy light little lonely lucky "
    "mighty modest narrow noble patient plain polite proud purple quick quiet rapid rough royal rusty sharp silent "
    "silver simple sleepy small smooth solid steep strange sturdy swift tender tidy tiny warm wild windy wise wooden"
)
NOUNS = (
    "anchor apple arrow badger barrel basket beaver blanket bottle branch bridge bucket butter button cabin camel "
    "candle canyon carpet castle cherry clock cloud compass copper coral cottage cradle dolphin dragon eagle engine "
    "falcon feather fiddle forest fountain garden guitar hammer harbor helmet island jacket kettle ladder lantern "
    "lemon lizard magnet maple marble meadow mirror monkey needle ocean orange otter parrot pebble pencil pepper "
    "pigeon pillow planet pocket puzzle rabbit ribbon river rocket saddle sailor shovel spider table temple ticket "
    "tiger tower tunnel turtle valley velvet violin wagon walnut whistle window"
)


@dataclass(frozen=True)
class Phrase:
    """A text that a task uses, in both wordings, with {key}, {value} and {other} to fill in."""

    planted: str
    sentences: str


@dataclass(frozen=True)
class Wording:
    """Which text of a `Phrase` tasks use, how it is encoded, and the keys and values to draw from.

    changed: own texts for some phrases, with the same fields. ends: facts are only hidden at the ends of sentences;
    None means anywhere. All keys have the same number of tokens, and so have all values: prompts of one task are
    equally long.
    """

    kind: Literal["planted", "sentences"]
    encode: Callable[[str], np.ndarray]
    decode: Callable[[np.ndarray], str]
    keys: tuple[str, ...]
    values: tuple[str, ...]
    changed: Mapping[Phrase, str] = field(default_factory=dict, hash=False)
    ends: SentenceEnds | None = None

    def haystack(self, source: np.ndarray) -> np.ndarray:
        """Ids of text to hide facts in: for real models all of it on one line, as in RULER.

        After text with line breaks and lists, small models answer with a new line instead of the numbers.
        """
        return source if self.kind == "planted" else self.encode(" " + " ".join(self.decode(source).split()))

    def opening(self, phrase: Phrase) -> np.ndarray:
        """Ids of a phrase that a document begins with; none if this wording has none."""
        text = self.text(phrase)
        return self.encode(text) if text else np.zeros(0, dtype=np.int64)

    def text(self, phrase: Phrase, **filled: str) -> str:
        """A phrase with its fields filled in; the template itself if none is given."""
        template = self.changed.get(phrase, getattr(phrase, self.kind))
        return template.format(**filled) if filled else template

    def n_tokens(self, answers: Sequence[np.ndarray]) -> int:
        """`Question.n_tokens` for these answers: a real model may say other words before, between and after them."""
        return 0 if self.kind == "planted" else sum(map(len, answers)) + MARGIN * len(answers)

    def answer(self, question: str, text: str) -> np.ndarray:
        """Ids of an answer as it is tokenised after its question."""
        return self.encode(question + text)[len(self.encode(question)) :]


def planted(tokenizer: PreTrainedTokenizerBase, values: str = "numbers") -> Wording:
    """The mini models' own wording, as in `longrecipe.data.facts`: ` Note: KEY NN.`, then ` Recall: KEY`.

    Each of these words is one token. values: `numbers`, or `words` for facts whose values are words.
    """
    strings = token_strings(tokenizer)
    keys, found = (tuple(strings[i] for i in each) for each in keys_and_values(strings, values))
    return Wording("planted", *_coder(tokenizer), keys=keys, values=found)


def sentences(tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Wording:
    """Plain English for any tokenizer: keys are an adjective and a noun (` amber-anchor`), values seven-digit numbers.

    The text around a fact hardly ever has such a key, whereas a single word of the text occurs in many places. Keys and
    numbers that do not have the most common token count are left out.
    """
    encode, decode = _coder(tokenizer)
    rng = np.random.default_rng(seed)
    pairs = [f" {first}-{second}" for first in ADJECTIVES.split() for second in NOUNS.split()]
    pairs = rng.choice(pairs, 2000, replace=False).tolist()
    numbers = [f" {number}" for number in rng.choice(np.arange(1_000_000, 10_000_000), 1000, replace=False)]
    keys, values = of_one_length(pairs, encode), of_one_length(numbers, encode)
    return Wording("sentences", encode, decode, keys=keys, values=values, ends=sentence_ends(tokenizer))


def _coder(tokenizer: PreTrainedTokenizerBase) -> tuple[Callable[[str], np.ndarray], Callable[[np.ndarray], str]]:
    # After a letter, because some tokenizers put a blank before the first word of a text. Not after a full stop: `..`
    # and `.` with a newline are one token in many vocabularies, so the full stop that ends an answer would be lost.
    before = tokenizer("a", add_special_tokens=False)["input_ids"]

    def encode(text: str) -> np.ndarray:
        ids = tokenizer("a" + text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids[len(before) :], dtype=np.int64)

    return encode, lambda ids: tokenizer.decode(ids)


def of_one_length(texts: Sequence[str], encode: Callable[[str], np.ndarray]) -> tuple[str, ...]:
    """The texts that have the most common number of tokens, so that prompts made with them are equally long."""
    lengths = [len(encode(text)) for text in texts]
    common = Counter(lengths).most_common(1)[0][0] if lengths else 0
    return tuple(text for text, length in zip(texts, lengths, strict=True) if length == common)
