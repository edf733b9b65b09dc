"""Measures: RULER-like long-context tasks for any tokenizer, NIAH(M), and what a model could do before (general).

`report` measures a model with all of them; a `Wording` says how facts are put into words, `planted` for the mini
models, `sentences` for any tokenizer and real text. Every mean carries an interval over documents.
"""

from longrecipe.evaluate.perplexity import copying, perplexity
from longrecipe.evaluate.reader import Reader, to_read
from longrecipe.evaluate.report import Report, paired, report
from longrecipe.evaluate.scoring import ask, cell, hits, interval
from longrecipe.evaluate.tasks import (
    NIAH_M,
    NOISE,
    OTHERS,
    Document,
    Question,
    common_words,
    needles,
    passkey,
    single,
    tracking,
)
from longrecipe.evaluate.wording import Wording, planted, sentences

__all__ = [
    "NIAH_M",
    "NOISE",
    "OTHERS",
    "Document",
    "Question",
    "Reader",
    "Report",
    "Wording",
    "ask",
    "cell",
    "common_words",
    "copying",
    "hits",
    "interval",
    "needles",
    "paired",
    "passkey",
    "perplexity",
    "planted",
    "report",
    "sentences",
    "single",
    "to_read",
    "tracking",
]
