"""Impactful token analysis: which tokens change when a model learns long text (paper, section 4.1).

H is the base model, H' the same model trained on to a longer window. `score_documents` gives every token its score
under both, `types_by_class`, `types_by_token` and `types_by_pos` say what kind of token it is, and `rank` finds the
types that change the most: the anchors that sentence selection goes by.
"""

from longrecipe.tokens.context import (
    in_batches,
    in_windows,
    short_context,
    short_context_losses,
    token_losses,
    tokens_read,
)
from longrecipe.tokens.kept import Kept, densities, keep
from longrecipe.tokens.leading import claims, rise_claims, saved_claims, saved_rises
from longrecipe.tokens.ranking import Analysis, binned, rank, rises
from longrecipe.tokens.scores import (
    SCORES,
    Scored,
    check_plain_logits,
    fingerprint,
    next_token_scores,
    read_scores,
    score_documents,
)
from longrecipe.tokens.taggers import TAGGED_PER_SECOND, UNIVERSAL, TaggerError
from longrecipe.tokens.types import (
    CLASSES,
    TYPES,
    TokenTypes,
    types_by_class,
    types_by_fact,
    types_by_pos,
    types_by_token,
)

__all__ = [
    "CLASSES",
    "SCORES",
    "TAGGED_PER_SECOND",
    "TYPES",
    "UNIVERSAL",
    "Analysis",
    "Kept",
    "Scored",
    "TaggerError",
    "TokenTypes",
    "binned",
    "check_plain_logits",
    "claims",
    "densities",
    "fingerprint",
    "in_batches",
    "in_windows",
    "keep",
    "next_token_scores",
    "rank",
    "read_scores",
    "rise_claims",
    "rises",
    "saved_claims",
    "saved_rises",
    "score_documents",
    "short_context",
    "short_context_losses",
    "token_losses",
    "tokens_read",
    "types_by_class",
    "types_by_fact",
    "types_by_pos",
    "types_by_token",
]
