"""Standard benchmarks of the models of a run, or of model folders."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import bench, models, results
from longrecipe.models.checkpoint import fingerprint
from longrecipe.positions import find
from longrecipe.recipe.stages import Recipe
from longrecipe.recipe.whole import chosen_by, models_of, train_all
from longrecipe.settings import Params
from longrecipe.settings.bench import Bench
from longrecipe.settings.errors import checked
from longrecipe.train import Trained, attention_of

_TRAINED = ("extended", "replayed", "merged")


def check(p: Params, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check the benchmarks of a run, if it has any, as far as no data is needed. Raises the errors of `bench.check`."""
    if p.bench_suites:
        bench.check(p, windows(p), _lengths(p), tokenizer=tokenizer)


def plan_of_run(run: Recipe) -> bench.Plan:
    """What the models of a run are asked: those of eval_stages, each at the lengths within its window. If `prepare`
    has already made the plan, it is returned.

    Stages that are not in the cache are trained when the first of their models is asked. Raises the errors of
    `bench.prepare`.
    """
    if run.plan is not None:
        return run.plan
    p = run.params

    @functools.cache
    def trained() -> Mapping[str, Trained]:
        return train_all(run, run.analyse())

    def load(name: str) -> PreTrainedModel:
        return models_of(run, trained() if name in _TRAINED else {})[name]()

    # The folder's name has hashes of the model, the text, the code and the settings of all stages.
    folder = run.folder("replay").name
    state = hashlib.sha256(f"{folder} {p.merge_rule} {p.merge_weight}".encode()).hexdigest()[:10]
    place = f"{p.model}-{p.method_slug}-{p.target_length}-{state}"
    subjects = [
        bench.Subject(name, f"{place}/{name.replace(' ', '-')}", window, functools.partial(load, name))
        for name, window in windows(p).items()
    ]
    return bench.prepare(subjects, run.tokenizer, p, lengths=_lengths(p), seed=p.seed, precision=p.eval_precision)


def benchmark(run: Recipe) -> pd.DataFrame:
    """Score the models of a run on its bench_suites, keep the results, and return the scores by suite, length and
    model (see `table`). No rows if bench_suites is null."""
    if not run.params.bench_suites:
        return pd.DataFrame()
    return saved(run, bench.run(plan_of_run(run)))


def saved(run: Recipe, found: Sequence[bench.Result]) -> pd.DataFrame:
    """Keep the results of a run, and return their `table`."""
    rows = pd.concat([each.rows.assign(stage=each.subject) for each in found], ignore_index=True)
    seconds = sum(each.about["seconds"] for each in found)
    results.save(run.params, "bench", {"benchmarks": rows}, seconds=seconds, versions=_versions(found))
    return table(found)


def plan_of_folders(
    sources: Sequence[str], options: Mapping[str, Any], *, seed: int = 0, precision: str = "auto"
) -> bench.Plan:
    """What models are asked: folders, hub ids or names of shipped models.

    options: settings of `settings.bench`. Raises ParamsError for options that do not exist, ValueError if the models
    have different tokenizers, and the errors of `bench.prepare`.
    """
    chosen = checked(Bench, options, source="the command line")
    dtype = models.autocast_dtype(precision, models.device_kind())
    subjects, tokenizers = [], []
    sources = list(dict.fromkeys(sources))
    for source, name in zip(sources, _names(sources), strict=True):
        scale = "small" if source == "smollm2" else "mini"
        folder = models.folder_of(source, scale)
        config = models.config_of(source, scale).get_text_config()
        load = functools.partial(models.load, source, scale, dtype=dtype, attention=attention_of("auto"))
        subjects.append(bench.Subject(name, _identity(folder), config.max_position_embeddings, load))
        tokenizers.append(models.load_tokenizer(source, scale))
    for source, tokenizer in zip(sources, tokenizers, strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise ValueError(
                f"{source} has another tokenizer than {sources[0]}: prompts are sized by tokens, so score "
                "each model in a separate command."
            )
    lengths = [min(subject.window for subject in subjects)]
    return bench.prepare(subjects, tokenizers[0], chosen, lengths=lengths, seed=seed, precision=precision)


def table(found: Sequence[bench.Result]) -> pd.DataFrame:
    """`bench.by_suite` of results, by suite, length and model."""
    frames = [bench.by_suite(each.rows).assign(model=each.subject) for each in found]
    return pd.concat(frames, ignore_index=True).sort_values(["suite", "length", "filter"], kind="stable")


def windows(p: Params) -> dict[str, int]:
    """The models of a run that are scored, with their windows."""
    names = ("base", "RoPE rule alone", *(_TRAINED if find(p.method).positions is not None else ()))
    return {name: p.window if name == "base" else p.target_length for name in chosen_by(p, names)}


def _lengths(p: Params) -> tuple[int, ...]:
    return p.window, p.target_length


def _versions(found: Sequence[bench.Result]) -> dict[str, str]:
    """What the scores depend on besides the settings, and the minutes of each suite, as text: for the record of a
    run."""
    merged: dict[str, str] = {}
    taken: dict[str, float] = {}
    for each in found:
        about = each.about
        merged |= about["versions"]
        merged |= {name: str(about[name]) for name in ("haystack", "haystack_sha256", "sentences") if name in about}
        if about.get("corrections"):
            merged["corrections of RULER"] = ", ".join(about["corrections"])
        title = bench.SUITES[each.suite].title
        taken[title] = taken.get(title, 0) + about["seconds"]
    return merged | {"minutes": ", ".join(f"{title} {seconds / 60:.0f}" for title, seconds in taken.items())}


def _names(sources: Sequence[str]) -> list[str]:
    """The last part of each source; the whole source if several end in it."""
    last = [Path(source).name or source for source in sources]
    return [name if last.count(name) == 1 else source for name, source in zip(last, sources, strict=True)]


def _identity(folder: Path) -> str:
    """A name for a model folder that changes with its files."""
    name = folder.parents[1].name if models.commit_of(folder) else folder.name
    return f"{name}-{fingerprint(folder)[:10]}"
