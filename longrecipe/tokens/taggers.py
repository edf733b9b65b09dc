"""Part-of-speech taggers with one interface: from the words of a sentence to universal tags."""

import importlib.util
import re
import unicodedata
from collections.abc import Callable, Sequence

# The tags of Universal Dependencies (universaldependencies.org/u/pos), in its order.
UNIVERSAL = (
    "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()  # noqa: SIM905
)
Tagger = Callable[[Sequence[str]], list[str]]

# HanTa's English tags are those of the British National Corpus (CLAWS 5).
_CLAWS = {
    "AJ0": "ADJ", "AJC": "ADJ", "AJS": "ADJ", "ORD": "ADJ", "AT0": "DET", "DT0": "DET", "AV0": "ADV", "AVQ": "ADV",
    "AVP": "ADP", "PRP": "ADP", "PRF": "ADP", "IN": "ADP", "CJC": "CCONJ", "CJS": "SCONJ", "CJT": "SCONJ",
    "CRD": "NUM", "ITJ": "INTJ", "NN": "NOUN", "NN0": "NOUN", "NN1": "NOUN", "NN2": "NOUN", "NP0": "PROPN",
    "DPS": "PRON", "DTQ": "PRON", "EX0": "PRON", "PNI": "PRON", "PNP": "PRON", "PNQ": "PRON", "PNX": "PRON",
    "POS": "PART", "TO0": "PART", "XX0": "PART", "PUL": "PUNCT", "PUN": "PUNCT", "PUQ": "PUNCT", "PUR": "PUNCT",
}  # fmt: skip
# TextBlob's are those of the Penn Treebank.
_PENN = {
    "CC": "CCONJ", "CD": "NUM", "DT": "DET", "EX": "PRON", "FW": "X", "IN": "ADP", "JJ": "ADJ", "JJR": "ADJ",
    "JJS": "ADJ", "LS": "X", "MD": "AUX", "NN": "NOUN", "NNS": "NOUN", "NNP": "PROPN", "NNPS": "PROPN", "PDT": "DET",
    "POS": "PART", "PRP": "PRON", "PRP$": "PRON", "RB": "ADV", "RBR": "ADV", "RBS": "ADV", "RP": "ADP", "SYM": "SYM",
    "UH": "INTJ", "WDT": "PRON", "WP": "PRON", "WP$": "PRON", "WRB": "ADV",
}  # fmt: skip
_BE = frozenset(["be", "am", "is", "are", "was", "were", "been", "being", "'m", "'re", "'s", "ai", "art"])
_DO_HAVE = frozenset(
    ["do", "does", "did", "done", "doing", "have", "has", "had", "having", "'ve", "'d", "hath", "dost"]
)
_NUMBERS = frozenset(
    """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred hundreds thousand thousands million
    millions billion billions trillion dozen dozens and i ii iii iv v vi vii viii ix x xi xii""".split()  # noqa: SIM905
)
_SUBORDINATING = frozenset(
    ["if", "because", "although", "though", "whether", "while", "unless", "that", "since", "until", "whereas"]
)


# Tokens that are tagged in a second on one core, measured on the text of Python's documentation.
TAGGED_PER_SECOND = {"hanta": 18_000.0, "textblob": 240_000.0}


class TaggerError(ValueError):
    """A tagger that is not installed; the message says what to install."""


def tagger(name: str = "hanta") -> Tagger:
    """A tagger by name: `hanta` (HanTa's English model), `textblob`, or the name or folder of a spaCy pipeline.

    The packages of HanTa and TextBlob contain their models; nothing is downloaded. Their tags (CLAWS 5, Penn Treebank)
    are mapped to universal ones, by these rules if one tag stands for two: be is AUX, do and have are AUX before
    another verb and VERB otherwise, a numeral has a digit or is a number word, and words without a letter or digit are
    SYM or PUNCT by their Unicode category.
    Raises TaggerError that says what to install.
    """
    if name == "hanta":
        _require("HanTa", "hanta", "HanTa")
        from HanTa.HanoverTagger import HanoverTagger  # loads a model of 2 MB

        model = HanoverTagger("morphmodel_en.pgz")
        return _universally(lambda words: [tag for *_, tag in model.tag_sent(words)], _CLAWS)
    if name == "textblob":
        _require("textblob", "textblob", "longrecipe[pos]")
        from textblob.en import tag

        return _universally(lambda words: [each for _, each in tag(" ".join(words), tokenize=False)], _PENN)
    return _spacy(name)


def _spacy(name: str) -> Tagger:
    _require("spacy", name, "spacy", extra="; hanta and textblob need no further model")
    import spacy

    try:
        pipeline = spacy.load(name)
    except OSError as error:
        raise TaggerError(
            f"tagger = {name!r}: spaCy has no pipeline of that name (python -m spacy download {name}); "
            "hanta and textblob need no further model."
        ) from error

    def tag(words: Sequence[str]) -> list[str]:
        tags = [token.pos_ for token in pipeline(spacy.tokens.Doc(pipeline.vocab, words=list(words)))]
        if not all(tags):
            raise TaggerError(f"tagger = {name!r}: this spaCy pipeline sets no part of speech; name one with a tagger.")
        return ["X" if each == "SPACE" else each for each in tags]

    return tag


def _require(module: str, name: str, package: str, extra: str = "") -> None:
    if importlib.util.find_spec(module) is None:
        raise TaggerError(f"tagger = {name!r} needs the package {module}: pip install '{package}'{extra}.")


def _universally(tag: Callable[[list[str]], list[str]], table: dict[str, str]) -> Tagger:
    def tagged(words: Sequence[str]) -> list[str]:
        # The taggers only know the straight apostrophe, and tag "\u2019s" as a number or a noun.
        straight = [word.replace("\u2019", "'") for word in words]
        return _universal(straight, tag(straight), table)

    return tagged


def _universal(words: Sequence[str], tags: Sequence[str], table: dict[str, str]) -> list[str]:
    lower = [word.lower() for word in words]
    verbs = [tag.startswith("V") for tag in tags]
    found = []
    for i, (word, tag) in enumerate(zip(lower, tags, strict=True)):
        if "\ufffd" in word:
            found.append("X")
        elif not any(map(str.isalnum, word)):
            symbol = any(unicodedata.category(c)[0] == "S" or c in "%#&@*/\\" for c in word)
            found.append("SYM" if symbol else "PUNCT")
        elif re.fullmatch(r"\d[\d.,:]*", word):
            found.append("NUM")
        elif table.get(tag) == "NUM" and not _is_number(word):
            found.append("NOUN")
        elif tag == "VM0" or (verbs[i] and word in _BE) or (tag.startswith("VB") and table is _CLAWS):
            found.append("AUX")
        elif verbs[i]:
            found.append("AUX" if word in _DO_HAVE and _verb_follows(tags, verbs, i) else "VERB")
        elif tag == "TO":
            found.append("PART" if _verb_follows(tags, verbs, i) else "ADP")
        elif word in ("not", "n't"):
            found.append("PART")
        elif tag == "IN" and word in _SUBORDINATING:
            found.append("SCONJ")
        else:
            found.append(table.get(tag, "X"))
    return found


def _is_number(word: str) -> bool:
    """Whether a word has a digit or is made of number words; taggers guess numerals among unknown words ("argv")."""
    return any(map(str.isdigit, word)) or all(part in _NUMBERS for part in word.split("-"))


def _verb_follows(tags: Sequence[str], verbs: Sequence[bool], i: int) -> bool:
    """Whether the next word is a verb, not counting adverbs, negations and pronouns."""
    passed = {"AV0", "XX0", "PNP", "RB", "PRP"}
    rest = (j for j in range(i + 1, len(tags)) if verbs[j] or tags[j] not in passed)
    following = next(rest, None)
    # PRP is a pronoun in Penn's tags and a preposition in CLAWS; skipping either is harmless.
    return following is not None and verbs[following]
