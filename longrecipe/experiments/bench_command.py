"""Scores of standard benchmarks that are not there yet: the command that makes them, and how long it takes."""

import json
import shlex
from collections.abc import Sequence

from longrecipe import models, settings
from longrecipe.bench import duration
from longrecipe.bench.suites import EXTRA, SUITES, to_run
from longrecipe.cost import Device, device_of
from longrecipe.cost.measure import rates
from longrecipe.recipe.benchmarks import windows
from longrecipe.settings import Params
from longrecipe.system.paths import params_dir


def to_measure(p: Params, suites: Sequence[str], device: Device | None = None) -> str:
    """What to type to score all models of a run on suites.

    device: adds how long its prompts take there (modelled), without training; see `this_machine`.
    """
    chosen = to_run(suites)
    words = ["longrecipe", "bench", "--params", *_params_words(p), "--suites", ",".join(chosen)]
    words += ["--allow-code"] if any(SUITES[name].runs_code for name in chosen) else []
    titles = ", ".join(SUITES[name].title for name in suites)
    text = f"{titles}: no scores of {p.model} yet. This command makes them:\n\n  {shlex.join(words)}\n\n"
    text += f"It trains what is not in the cache, and needs `{EXTRA}`.\ndocs/benchmarks.md explains the options."
    if device is None:
        return text
    hours = modelled_seconds(p, suites, device) / 3600
    took = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    limit = f"{p.bench_limit} prompts of each task" if p.bench_limit else "all prompts"
    return f"{text}\nWith {limit}, all models together take about {took} on {device.name} (modelled)."


def this_machine(p: Params) -> Device:
    """This machine with its rates, measured in up to a minute at the shapes of a model; of a CPU, those of one
    thread."""
    name, length = ("this GPU", 8192) if models.device_kind() == "cuda" else ("one thread of this CPU", 1024)
    return device_of({"device": name, "rates": rates(models.config_of(p.source, p.scale), length)})


def modelled_seconds(p: Params, suites: Sequence[str], device: Device) -> float:
    """Modelled seconds of the prompts of suites for all models of a run, see `bench.duration`."""
    config, lengths = models.config_of(p.source, p.scale), p.bench_lengths or (p.window, p.target_length)
    kind = models.device_kind()
    size = models.autocast_dtype(p.eval_precision, kind).itemsize
    asked = (
        duration.expected_prompts(suites, [n for n in lengths if n <= window], p.bench_limit)
        for window in windows(p).values()
    )
    return sum(duration.seconds(config, device, each, kind=kind, weight_bytes=size) for each in asked)


def _params_words(p: Params) -> list[str]:
    """A params file as an argument, and the -p that change it into p; the file of a user has no known name."""
    path = params_dir() / p.scale / f"{p.model}.yaml"
    if not path.is_file():
        return ["own.yaml"]
    options = []
    for profile in (None, *settings.profiles(path)):
        file, own = settings.load(p.model, p.scale, profile), p.model_dump(mode="json")
        changed = {name: value for name, value in own.items() if value != file.model_dump(mode="json")[name]}
        options.append(({"profile": profile} if profile else {}) | changed)
    chosen = min(options, key=len)
    words = [f"params/{p.scale}/{p.model}.yaml"]
    for name, value in chosen.items():
        words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
    return words
