"""Write results/README.md."""

from longrecipe.paths import results_dir, write_text
from longrecipe.results.summary import summary

write_text(results_dir() / "README.md", summary())
