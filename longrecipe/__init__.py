"""longrecipe: reproduce, understand and use LongRecipe (arXiv 2409.00509)."""

__version__ = "0.1.0"
