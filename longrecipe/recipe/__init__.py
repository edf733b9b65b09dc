"""The recipe of one run, stage by stage, from its settings: checks, cache, stages, export."""

from longrecipe.recipe.stages import Recipe, prepare

__all__ = ["Recipe", "prepare"]
