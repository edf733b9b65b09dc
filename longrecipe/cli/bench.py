"""`longrecipe bench`: standard benchmarks of models, by lm-evaluation-harness."""

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from longrecipe.cli.arguments import add_settings, overrides

if TYPE_CHECKING:
    import pandas as pd

HELP = "Score models on RULER, NIAH(M), own needles, LongBench, MMLU, GSM8K and HumanEval, all on the same prompts."
EXAMPLES = """\
  longrecipe bench BASE EXTENDED --suites niah_m,mmlu --lengths 8192 --limit 50
  longrecipe bench EXTENDED --suites ruler --lengths 8192,131072 --data DATA --haystack LONG_TEXT --check
  longrecipe bench --params own.yaml --suites niah_m,gsm8k

The last example scores the base model of a run, the RoPE rule alone, and all stages. --check makes the prompts, prints
how many tokens they have, and stops. Without a connection, DATA has a folder for each dataset, such as openai/gsm8k;
if one is missing, the message names it. Needs `pip install 'longrecipe[eval]'`.
"""
INTERRUPTED = "the same command resumes"
_LISTS = ("suites", "lengths", "without")
_OPTIONS = {
    "suites": ("NAMES", "niah_m, needles, ruler, longbench, mmlu, gsm8k, humaneval, separated by commas"),
    "lengths": (
        "TOKENS",
        "of prompts of RULER and needles, separated by commas; default: the shortest window, or W and T of a run",
    ),
    "limit": ("N", "prompts of each task (of RULER and needles: and of each length); default: 20; null: all"),
    "without": ("TASKS", "tasks to leave out, separated by commas"),
    "data": ("FOLDER", "folder with datasets in the hub's layout; default: the hub"),
    "haystack": ("FILE", "text to hide needles in, or `english`; default: Paul Graham's essays, from the hub"),
}
_SWITCHES = {
    "fill": "make RULER's prompts as long as fits; the harness's are up to half shorter",
    "chat-template": "put prompts into the chat template of the tokenizer",
    "allow-code": "let humaneval run the code that the models write, on this machine",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the models, --params, -p, the options of settings.bench, --seed, --check, --validate and --force."""
    parser.add_argument("models", nargs="*", metavar="FOLDER", help="a model folder or a hub id")
    parser.add_argument("--params", metavar="FILE", help="score the models of this run; settings come from the file")
    add_settings(parser)
    for name, (metavar, text) in _OPTIONS.items():
        parser.add_argument(f"--{name}", metavar=metavar, help=text)
    for name, text in _SWITCHES.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    parser.add_argument("--seed", type=int, help="of the prompts of RULER and needles; default: 0, or that of the run")
    parser.add_argument("--precision", help="auto, bf16 or fp32; default: auto, or eval_precision of the run")
    parser.add_argument("--check", action="store_true", help="make and count the prompts, and stop")
    parser.add_argument(
        "--validate", action="store_true", help="score the first model by the harness alone, too, compare, and stop"
    )
    parser.add_argument("--force", action="store_true", help="repeat finished suites as well")


def run(chosen: argparse.Namespace) -> None:
    """Score the models, and print their scores."""
    if bool(chosen.models) == bool(chosen.params):
        chosen.parser.error("give either model folders, or the settings of a run with --params")
    from longrecipe import bench, recipe, settings
    from longrecipe.recipe import benchmarks

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    given = {f"bench_{name}": value for name, value in _given(chosen).items()}
    own = {name: getattr(chosen, name) for name in ("seed", "precision") if getattr(chosen, name) is not None}
    if chosen.params:
        if own:
            chosen.parser.error(
                "--seed and --precision are for model folders: with --params, give -p seed or -p eval_precision"
            )
        p = settings.load(chosen.params, **overrides(chosen) | given)
        if not p.bench_suites:
            chosen.parser.error("give --suites, or bench_suites in the settings of the run")
        prepared = recipe.prepare(p)
        plan = benchmarks.plan_of_run(prepared)
    else:
        if chosen.settings:
            chosen.parser.error("-p changes the settings of a run: give --params as well")
        plan = benchmarks.plan_of_folders(chosen.models, given, **own)
    _write(plan.counted())
    if chosen.validate:
        from longrecipe.bench.validation import validate

        _write(validate(plan))
    elif not chosen.check:
        found = bench.run(plan, force=chosen.force)
        _write(benchmarks.saved(prepared, found) if chosen.params else benchmarks.table(found))


def _write(table: "pd.DataFrame") -> None:
    sys.stdout.write(table.to_string(index=False, float_format="{:.1f}".format) + "\n\n")


def _given(chosen: argparse.Namespace) -> dict[str, object]:
    """The options that were given, by the names of the settings without `bench_`; lists as text, as for -p, and the
    text null as None."""
    found: dict[str, object] = {}
    for name in (*_OPTIONS, *_SWITCHES):
        name = name.replace("-", "_")
        value = getattr(chosen, name)
        if value:
            found[name] = None if value == "null" else f"[{value}]" if name in _LISTS else value
    return found
