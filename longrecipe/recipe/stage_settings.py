"""How each stage of a run is trained, from the run's settings."""

from typing import Any

from longrecipe import results, train
from longrecipe.settings import Params
from longrecipe.train.memory import rows_at_once, setup_of


def probe(p: Params, analysis_only: bool = False) -> train.Stage:
    """H'. analysis_only: whether the run was prepared for the token analysis, which names it in trackers."""
    experiment = "tokens" if analysis_only else "train"
    return _stage(p, "probe", name="H'", experiment=experiment, warmup_steps=p.warmup_steps)


def extend(p: Params) -> train.Stage:
    """Stage 1."""
    return _stage(p, "extend", schedule=p.extend_schedule, warmup_steps=p.warmup_steps)


def replay(p: Params) -> train.Stage:
    """Stage 2."""
    terms = {"kl_weight": p.replay_kl_weight, "skip_weight": p.replay_skip_weight}
    return _stage(p, "replay", schedule=p.replay_schedule, **terms)


def _stage(
    p: Params, stage: str, *, name: str | None = None, experiment: str = "train", **settings: Any
) -> train.Stage:
    """The settings of a stage; stage: what its settings begin with, and the name of its folder."""
    setup = setup_of(p)
    steps, batch_size, rate = (getattr(p, f"{stage}_{key}") for key in ("steps", "batch_size", "learning_rate"))
    return train.Stage(
        name or stage,
        steps,
        batch_size,
        learning_rate=rate,
        save_steps=p.save_steps,
        seed=p.seed,
        precision=p.precision,
        accumulation=max(1, batch_size // (train.n_readers(setup) * rows_at_once(p, batch_size))),
        setup=setup,
        report_to=p.report_to,
        run_name=f"{results.run_name(p, experiment)}-{stage}",
        **settings,
    )
