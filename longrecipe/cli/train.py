"""`longrecipe train`: the whole recipe from a params file, on one GPU or on many."""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from longrecipe.cli.arguments import add_run, overrides

if TYPE_CHECKING:
    from longrecipe.recipe import Recipe
    from longrecipe.train import Trained

log = logging.getLogger(__name__)

HELP = "Extend a model: token analysis, training on long positions, replay and merge."
EXAMPLES = """\
  longrecipe train --params own.yaml
  longrecipe train --params params/paper/llama3.yaml -p text LONG_TEXT -p replay_text GENERAL_TEXT
  accelerate launch --config_file params/accelerate/fsdp2.yaml --num_processes 8 \\
      -m longrecipe train --params own.yaml

Before any work, the command checks model, text, memory and disk. If the run cannot succeed, it exits with status 1 and
says how to fix that. An interrupted run resumes with the same command. The last line of the output is the folder of
the extended model.
"""
INTERRUPTED = "the same command resumes from the last checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --params, -p and --out."""
    add_run(parser)


def run(chosen: argparse.Namespace) -> None:
    """Check the run, train, and print the folder of the extended model."""
    import transformers

    from longrecipe import positions, recipe, settings
    from longrecipe.recipe.memory import check_memory
    from longrecipe.system.processes import is_main

    logging.basicConfig(level=logging.INFO if is_main() else logging.WARNING, format="%(asctime)s %(message)s")
    if not is_main():
        transformers.utils.logging.set_verbosity_error()
    p = settings.load(chosen.params, **overrides(chosen))
    if positions.find(p.method).positions is None:
        raise settings.ParamsError(f"method = {p.method}: it trains nothing, so no model is written; set another.")
    log.info("%s", check_memory(p))
    prepared = recipe.prepare(p)
    exported = prepared.export(_train(prepared))
    if is_main():
        sys.stdout.write(f"{exported}\n")


def _train(run: "Recipe") -> "Trained":
    """Run the token analysis and the two stages, and log their results."""
    from longrecipe import recipe

    analysis = run.analyse()
    if anchors := run.anchors(analysis):
        log.info("anchors: %s", ", ".join(anchors))
    stages = recipe.train_all(run, analysis)
    for stage in stages.values():
        log.info("%s: %s tokens, %.0f s, loss %.3f", stage.name, f"{stage.n_tokens:,}", stage.seconds, stage.losses[-1])
    return stages["replayed"]
