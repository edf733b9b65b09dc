"""The whole recipe from a params file, on one GPU or on many: `python -m longrecipe.train --params FILE`.

Token analysis, extension, replay and merge; an interrupted run resumes. For several GPUs: `accelerate launch
--config_file params/accelerate/fsdp2.yaml -m longrecipe.train --params FILE`. Before any work it checks the model, the
text, memory and disk; if the run cannot end well, it exits with status 1 and says how to fix that.
"""

import argparse
import logging
import sys

import psutil
import torch
import transformers

from longrecipe import cost, recipe, settings
from longrecipe.command import messages
from longrecipe.cost import GB
from longrecipe.recipe import disk, preflight
from longrecipe.system.processes import is_main, n_processes
from longrecipe.train.memory import rows_at_once, setup_of

log = logging.getLogger("longrecipe.train")

ELSEWHERE = "checked for another machine (--gpu-gb): model and memory; not checked: text, disk, packages, speed"


def main(arguments: list[str] | None = None) -> None:
    """The command line: a params file, settings by name, the folder of the export, and --check to stop before any
    work."""
    parser = argparse.ArgumentParser(prog="python -m longrecipe.train", description="Run the recipe of a params file.")
    parser.add_argument("--params", required=True, metavar="FILE", help="such as params/own.yaml")
    settings.add_settings(parser)
    parser.add_argument("--out", metavar="FOLDER", help="the folder of the extended model (settings key out)")
    parser.add_argument("--check", action="store_true", help="check model, text, memory and disk, and stop")
    parser.add_argument("--gpu-gb", type=float, metavar="GB", help="memory of one GPU; default: of the one here")
    parser.add_argument("--host-gb", type=float, metavar="GB", help="memory of the host; default: of this one")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if is_main() else logging.WARNING, format="%(asctime)s %(message)s")
    if not is_main():
        transformers.utils.logging.set_verbosity_error()
    with messages(parser, "the same command resumes from the last checkpoint"):
        p = settings.load(
            chosen.params, **settings.given_settings(chosen) | ({"out": chosen.out} if chosen.out else {})
        )
        log.info("%s", _check(p, chosen.gpu_gb, chosen.host_gb))
        if chosen.check:
            preflight.check(p, fetch=False, here=chosen.gpu_gb is None)
            log.info("checked: the run can start" if chosen.gpu_gb is None else ELSEWHERE)
        else:
            _train(recipe.prepare(p, saves_results=False))


def _check(p: settings.Params, gpu_gb: float | None, host_gb: float | None) -> str:
    """What the run's stage 1 needs, in words. Raises DoesNotFitError if that is more than there is."""
    # A model that the recipe cannot extend has no cost either.
    config, setup = preflight.check_config(p), setup_of(p)
    rows = rows_at_once(p, p.extend_batch_size)
    if gpu_gb is None and torch.cuda.is_available():
        gpu_gb = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GB
    here = psutil.virtual_memory().total
    host = (here if host_gb is None else host_gb * GB) / n_processes()
    need = cost.training_memory(config, p.train_length, setup, rows)
    if gpu_gb is not None:
        need = cost.check_fits(config, p.train_length, gpu_gb * GB, host, setup, rows)
    n_tokens = p.extend_steps * p.extend_batch_size * p.train_length
    flops = cost.training_flops(config, n_tokens, p.train_length)
    sizes = need.gigabytes()
    there = "no GPU here to hold it against" if gpu_gb is None else f"of {gpu_gb:.0f}"
    return (
        f"modelled: {sizes['peak']:.1f} GB on a GPU ({there}), {sizes['host']:.1f} GB of the host's; stage 1: "
        f"{n_tokens / 1e6:,.0f}M tokens in samples of {p.train_length:,}, {flops:.2e} FLOPs; "
        f"{disk.disk_need(p, config) / GB:,.1f} GB on disk"
    )


def _train(run: recipe.Recipe) -> None:
    analysis = run.analyse()
    if analysis is not None:
        log.info("anchors: %s", ", ".join(analysis.anchors(run.params.anchor_count, run.params.anchor_rule)))
    extended = run.extend(run.stage_one_set(analysis))
    replayed = run.replay(extended, analysis)
    for stage in (extended, replayed):
        log.info("%s: %s tokens, %.0f s, loss %.3f", stage.name, f"{stage.n_tokens:,}", stage.seconds, stage.losses[-1])
    if is_main():
        sys.stdout.write(f"{run.export(replayed)}\n")


if __name__ == "__main__":
    main()
