"""How each stage of a run is trained, from the run's settings."""

from typing import Any

from longrecipe import results, train
from longrecipe.settings import Params
from longrecipe.train.memory import rows_at_once, setup_of


def probe(p: Params, analysis_only: bool = False) -> train.Stage:
    """H'. analysis_only: whether the run was prepared for the token analysis, which names it in trackers."""
    experiment = "tokens" if analysis_only else "train"
    return _stage(
        p,
        "H'",
        f"{results.run_name(p, experiment)}-probe",
        steps=p.probe_steps,
        batch_size=p.probe_batch_size,
        learning_rate=p.probe_learning_rate,
        warmup_steps=p.warmup_steps,
    )


def extend(p: Params) -> train.Stage:
    """Stage 1."""
    return _stage(
        p,
        "extend",
        f"{results.run_name(p, 'train')}-extend",
        steps=p.extend_steps,
        batch_size=p.extend_batch_size,
        learning_rate=p.extend_learning_rate,
        schedule=p.extend_schedule,
        warmup_steps=p.warmup_steps,
    )


def replay(p: Params) -> train.Stage:
    """Stage 2."""
    return _stage(
        p,
        "replay",
        f"{results.run_name(p, 'train')}-replay",
        steps=p.replay_steps,
        batch_size=p.replay_batch_size,
        learning_rate=p.replay_learning_rate,
        schedule=p.replay_schedule,
        kl_weight=p.replay_kl_weight,
        skip_weight=p.replay_skip_weight,
    )


def _stage(p: Params, name: str, run_name: str, *, batch_size: int, **settings: Any) -> train.Stage:
    setup = setup_of(p)
    return train.Stage(
        name,
        batch_size=batch_size,
        save_steps=p.save_steps,
        seed=p.seed,
        precision=p.precision,
        accumulation=max(1, batch_size // (train.n_readers(setup) * rows_at_once(p, batch_size))),
        setup=setup,
        report_to=p.report_to,
        run_name=run_name,
        **settings,
    )
