"""The grids: which settings and seeds each of the paper's tables and figures needs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from longrecipe import settings
from longrecipe.families import FAMILIES
from longrecipe.settings import Params

MODELS, METHODS, TARGETS = tuple(FAMILIES), ("flt", "rpes", "pose", "longrecipe"), (2560, 4096)
# Llama's are the runs that the claims rest on.
SEEDS = {"llama3": 5}
RATIOS = (0.05, 0.1, 0.2, 0.3, 0.4)
# Equation 6 with M = 0: the selected sentences at contiguous positions.
CONTIGUOUS = "longrecipe:max_gap=0"


def methods(
    models: str | Iterable[str] = MODELS,
    seeds: Sequence[int] | None = None,
    targets: int | Sequence[int] | None = None,
    **changes: Any,
) -> list[Params]:
    """Tables 1 and 3: every method at every target, and the untrained base with raised RoPE base.

    seeds: None takes 0 to 4 for llama3 and 0 to 2 for the others; targets: lengths in tokens, or one; None takes 2560
    and 4096 at scale mini, elsewhere the target of the params file.
    """
    models = [models] if isinstance(models, str) else models
    mini = changes.get("scale", "mini") == "mini"
    return [
        settings.load(model, method=method, seed=seed, **({"target_length": target} if target else {}), **changes)
        for model in models
        for target in (_lengths(targets) or (TARGETS if mini and not settings.is_file(model) else [None]))
        for seed in (range(SEEDS.get(model, 3)) if seeds is None else seeds)
        for method in ("none", *METHODS)
    ]


def _lengths(targets: Any) -> list[int] | None:
    """Lengths given as one number, as a list, or as the text of a list, which papermill passes."""
    if targets is None:
        return None
    try:
        listed = [targets] if isinstance(targets, int | float) else settings.read_list(targets)
        lengths = TypeAdapter(list[int]).validate_python(listed)
        if isinstance(targets, bool) or not lengths:
            raise ValueError("no length")
    except (ValueError, ValidationError) as error:
        raise settings.ParamsError(
            f"targets = {targets!r}: a length in tokens, such as 4096, or a list of them, such as [2560, 4096]."
        ) from error
    return lengths


def ablation(models: str | Iterable[str] = "llama3", seeds: Sequence[int] = (0, 1, 2), **changes) -> list[Params]:
    """Table 2: LongRecipe without token analysis, with random sentences, in full; its sentences and the first tokens at
    contiguous positions; PoSE; no training."""
    variants = [
        {"method": "none"},
        {"method": "pose"},
        {"method": "longrecipe", "selection": "first"},
        {"method": "longrecipe", "selection": "random"},
        {"method": "longrecipe"},
        {"method": CONTIGUOUS},
        {"method": CONTIGUOUS, "selection": "first"},
    ]
    return _varied(models, seeds, variants, changes)


def ratio(models: str | Iterable[str] = "llama3", seeds: Sequence[int] = (0, 1, 2), **changes) -> list[Params]:
    """Figure 2: the share of the target's tokens that a sample holds, also at contiguous positions; 100 % is FLT."""
    shares = [{"method": method, "ratio": share} for share in RATIOS for method in ("longrecipe", CONTIGUOUS)]
    return _varied(models, seeds, [{"method": "flt"}, *shares], changes)


def front(models: str | Iterable[str] = "llama3", seeds: Sequence[int] = (0, 1, 2), **changes) -> list[Params]:
    """The fronts of long against general skill: every method, and LongRecipe with other replays; see `merges`."""
    variants = [
        *({"method": method} for method in METHODS),
        {"replay_kl_weight": 0.0},
        {"replay_long_share": 0.0},
        {"replay_long_share": 0.0, "replay_kl_weight": 0.0},
        *({"replay_steps": steps} for steps in (40, 80)),
    ]
    return _varied(models, seeds, [{"method": "longrecipe"} | variant | changes for variant in variants], {})


def _varied(
    models: str | Iterable[str], seeds: Sequence[int], variants: Sequence[Mapping], changes: Mapping
) -> list[Params]:
    models = [models] if isinstance(models, str) else models
    return [settings.load(m, seed=seed, **variant, **changes) for m in models for seed in seeds for variant in variants]


def from_notebook(grid: str, namespace: Mapping[str, Any], **fixed: Any) -> list[Params]:
    """A grid of GRIDS from a notebook's namespace (`globals()`): model, n_seeds, settings of runs (see
    `settings.given_in`).

    n_seeds: None takes the grid's own, 3, and 5 for the methods on llama3. fixed: arguments of the grid that the
    notebook sets and its user does not. Raises ParamsError for unknown names, impossible values, and what the grid sets
    itself; OSError if the cache cannot be written.
    """
    own = {"n_seeds"} | ({"targets"} if grid == "methods" else set())
    given = settings.given_in(namespace, {*Params.model_fields, "profile", *own})
    if unknown := given.keys() & {"models", "seeds", *fixed}:
        allowed = ", ".join(["model", *sorted(own - fixed.keys()), "profile", *Params.model_fields])
        raise settings.ParamsError(f"unknown parameter {sorted(unknown)[0]!r}. Allowed are {allowed}.")
    model, n_seeds = str(given.pop("model")), given.pop("n_seeds", None)
    if settings.is_file(model):
        # A notebook's cell always has a scale; a file names its own.
        given.pop("scale", None)
    if n_seeds is not None and not (isinstance(n_seeds, int) and n_seeds >= 2):
        raise settings.ParamsError(f"n_seeds = {n_seeds!r}: give 2 seeds or more, as an interval needs.")
    seeds = {} if n_seeds is None else {"seeds": range(n_seeds)}
    if taken := given.keys() & SETS[grid]:
        raise settings.ParamsError(
            f"{', '.join(sorted(taken))}: the grid sets it; give n_seeds and (methods only) targets, or use notebook "
            "03 for a single run."
        )
    return GRIDS[grid](model, **seeds, **given, **fixed)


# What each grid sets itself, and how it is run.
SETS = {
    "methods": {"method", "seed", "target_length", "selection"},
    "ablation": {"method", "seed", "selection"},
    "ratio": {"method", "seed", "ratio"},
    "front": {"method", "seed", "replay_kl_weight", "replay_long_share", "replay_steps"},
}
HOW = {"methods": "full", "ablation": "lean", "ratio": "lean", "front": "merges"}
GRIDS: dict[str, Callable[..., list[Params]]] = {
    "methods": methods,
    "ablation": ablation,
    "ratio": ratio,
    "front": front,
}
