"""The recipe of one run, from its settings: checks, stages with their cache, measuring and export."""

from longrecipe.recipe.stages import Recipe, prepare

__all__ = ["Recipe", "prepare"]
