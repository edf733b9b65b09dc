"""Measures: RULER-like long-context tasks for any tokenizer, NIAH(M), perplexity, LongPPL, loss by position, copying.

`report` measures a model with all of them; a `Wording` puts facts into words, `planted` for the mini models,
`sentences` for real models. `TASKS` is the one table of tasks. Every mean has an interval over
documents.
"""

from longrecipe.evaluate.association import association
from longrecipe.evaluate.by_position import (
    ALL,
    LONG_CONTEXT,
    loss_by_position,
    loss_difference,
    losses_by_document,
    over_documents,
    position_edges,
)
from longrecipe.evaluate.longppl import LongPerplexity, key_tokens, long_perplexity
from longrecipe.evaluate.perplexity import copying, perplexity
from longrecipe.evaluate.questions import Document, Question
from longrecipe.evaluate.reader import Reader, to_read
from longrecipe.evaluate.report import Report, paired, report
from longrecipe.evaluate.scoring import ask, cell, document_scores, hits, interval
from longrecipe.evaluate.tasks import (
    NIAH_M,
    NOISE,
    OTHERS,
    RULER,
    TASKS,
    Task,
    common_words,
    needles,
    others,
    passkey,
    single,
    tracking,
)
from longrecipe.evaluate.wording import Phrase, Wording, planted, sentences
from longrecipe.evaluate.worked import Worked, worked, worked_table

__all__ = [
    "ALL",
    "LONG_CONTEXT",
    "NIAH_M",
    "NOISE",
    "OTHERS",
    "RULER",
    "TASKS",
    "Document",
    "LongPerplexity",
    "Phrase",
    "Question",
    "Reader",
    "Report",
    "Task",
    "Wording",
    "Worked",
    "ask",
    "association",
    "cell",
    "common_words",
    "copying",
    "document_scores",
    "hits",
    "interval",
    "key_tokens",
    "long_perplexity",
    "loss_by_position",
    "loss_difference",
    "losses_by_document",
    "needles",
    "others",
    "over_documents",
    "paired",
    "passkey",
    "perplexity",
    "planted",
    "position_edges",
    "report",
    "sentences",
    "single",
    "to_read",
    "tracking",
    "worked",
    "worked_table",
]
