"""The start of a run: its checks, its tokenizer and its text."""

from dataclasses import replace

from longrecipe import results
from longrecipe.recipe import benchmarks, cache, preflight
from longrecipe.recipe.disk import run_disk_reported
from longrecipe.recipe.run_text import commits, load_text
from longrecipe.recipe.stages import Recipe
from longrecipe.recipe.text_checks import check_loaded
from longrecipe.settings import Params
from longrecipe.system.processes import n_processes


def prepare(params: Params, analysis_only: bool = False) -> Recipe:
    """Check a run and load what it needs: its tokenizer and its text.

    analysis_only: whether only the token analysis and positions are needed. If not, all checks of `preflight` and
    `text_checks` run first, so that problems with the model, tokenizer, text, export folder, disk or tasks end the run
    before any work.
    Raises ValueError or OSError, with the value and how to fix it.
    """
    for stage in cache.CODE:
        # Hashed before any work, because sources may be edited during the run.
        cache.code_of(stage)
    tokenizer = preflight.check_for_analysis(params) if analysis_only else preflight.check(params)
    with run_disk_reported(params):
        text = load_text(params, tokenizer)
    run = Recipe(params, tokenizer, text, analysis_only)
    if not analysis_only:
        check_loaded(params, text)
        if params.bench_suites and n_processes() == 1:
            # A missing dataset ends the run now.
            run = replace(run, plan=benchmarks.plan_of_run(run))
    results.revisions.record(params, commits(params, text))
    return run
