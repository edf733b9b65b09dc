"""Taggers side by side: `python tests/benchmarks/bench_taggers.py` (needs `pip install -e '.[test]'`).

Words a second on the language reference, one thread, and how often each universal tag comes out; accuracy on sentences
tagged by hand is tested in tests/test_taggers.py.
"""

import re
import time
from collections import Counter

from longrecipe.data.english import english_texts
from longrecipe.tokens.taggers import tagger

WANTED = ("NUM", "PRON", "AUX", "CCONJ", "ADP", "SYM", "INTJ")


def main() -> None:
    text = "\n".join(english_texts(planted=False))[:200_000]
    sentences = [re.findall(r"\w+|[^\w\s]", part) for part in re.split(r"(?<=[.!?])\s|\n", text)]
    sentences = [words for words in sentences if words]
    n_words, rates = sum(map(len, sentences)), {}
    for name in ("hanta", "textblob"):
        tag = tagger(name)
        tag(sentences[0])
        start = time.perf_counter()
        tags = Counter(each for words in sentences for each in tag(words))
        rates[name] = n_words / (time.perf_counter() - start)
        shares = "  ".join(f"{each} {tags[each] / n_words:.2%}" for each in WANTED)
        print(f"{name:10}{rates[name]:10,.0f} words a second  {shares}")
    print(f"textblob is {rates['textblob'] / rates['hanta']:.0f} times as fast ({n_words:,} words)")


if __name__ == "__main__":
    main()
