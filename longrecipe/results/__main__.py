"""Write results/README.md."""

from longrecipe.files import write_text
from longrecipe.paths import results_dir
from longrecipe.results.summary import summary

write_text(results_dir() / "README.md", summary())
