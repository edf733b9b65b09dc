"""The recipe of one run, from its settings: checks, stages with their cache, measuring and export."""

from longrecipe.recipe import context_scores
from longrecipe.recipe.held_out import HeldOut, key_tokens, read_held_out, read_losses
from longrecipe.recipe.preparing import prepare
from longrecipe.recipe.stages import Recipe
from longrecipe.recipe.whole import (
    export_checked,
    measure_all,
    measure_steps,
    one_sentence,
    ranking_of,
    replay_as_in_paper,
    shown_rows,
    train_all,
    weights_by_type,
)

__all__ = [
    "HeldOut",
    "Recipe",
    "context_scores",
    "export_checked",
    "key_tokens",
    "measure_all",
    "measure_steps",
    "one_sentence",
    "prepare",
    "ranking_of",
    "read_held_out",
    "read_losses",
    "replay_as_in_paper",
    "shown_rows",
    "train_all",
    "weights_by_type",
]
