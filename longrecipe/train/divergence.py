"""Training that fails: it stops at the first loss or gradient that is not a finite number, and says what to try."""

import logging
import math
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, TrainerCallback

from longrecipe.train.guard import SkippedPositionsError, check_skipped_positions
from longrecipe.train.settings import Stage

log = logging.getLogger(__name__)
# A stage whose loss ends above this multiple of its start, and by at least this many nats, made the model worse.
_FACTOR, _NATS = 1.5, 0.5


class DivergedError(ValueError):
    """Training gave numbers that are not finite, or weights that are of no use."""


class StopAtNonFinite(TrainerCallback):
    """End training at the first optimizer step whose loss or gradient norm is not finite, before it is saved.

    Raises DivergedError in every process, as all of them log the same mean. Trainer must log every step, with
    logging_nan_inf_filter off: with it, NaN is logged as 0.
    """

    def __init__(self, stage: Stage):
        self.stage, self.rate = stage, stage.learning_rate

    def on_step_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        if lr_scheduler is not None:
            self.rate = lr_scheduler.get_last_lr()[0]

    def on_log(self, args, state, control, logs=None, **kwargs):
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = (logs or {}).get(key)
            if value is not None and not math.isfinite(value):
                raise DivergedError(
                    f"{self.stage.name}: the {name} is {float(value)} in step {state.global_step} of "
                    f"{self.stage.steps}, at a learning rate of {self.rate:.3g}. {advice(self.stage)}"
                )


def check_trained(network: PreTrainedModel | None, weights: Iterable[tuple[str, torch.Tensor]], stage: Stage) -> None:
    """Check what a stage has trained before it counts as finished.

    network: the trained model, for the guard of skipped positions, which passed before training: if it fails now, the
    weights have grown until attention reads almost nothing. None leaves the guard out. weights: name and tensor.
    Raises DivergedError.
    """
    if name := first_not_finite(weights):
        raise DivergedError(f"{stage.name}: {name} has values that are not finite after training. {advice(stage)}")
    if network is None:
        return
    try:
        check_skipped_positions(network)
    except SkippedPositionsError as error:
        raise DivergedError(
            f"{stage.name}: the trained model is of no use: attention does not reach all tokens any more, or gradients "
            f"are not finite, and both were right before training. {advice(stage)}"
        ) from error


def warn_if_worse(losses: list[float], stage: Stage) -> None:
    """Log a warning if the loss of a stage, in the mean of a tenth of its steps, ends far above its start."""
    tenth = max(1, len(losses) // 10)
    start, end = (sum(some) / tenth for some in (losses[:tenth], losses[-tenth:]))
    if end > max(_FACTOR * start, start + _NATS):
        log.warning("%s: the loss rose from %.2f to %.2f, the model got worse. %s", stage.name, start, end, _try(stage))


def first_not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a value that is NaN or infinite; None if all are finite."""
    return next((name for name, tensor in weights if not _is_finite(tensor)), None)


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Both ends are NaN if any value is; 30 times faster on a CPU than isfinite of every value.
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def advice(stage: Stage) -> str:
    """What a user can try after a stage diverged."""
    return f"The stage is not finished and will not be used. {_try(stage)}"


def _try(stage: Stage) -> str:
    key = {"H'": "probe", "extend": "extend", "replay": "replay"}.get(stage.name)
    name = f"{key}_learning_rate" if key else "the learning rate"
    # Replay starts at its full rate.
    warmup = "" if key == "replay" else f", or raise warmup_steps ({stage.warmup_steps})"
    return (
        f"Lower {name} ({stage.learning_rate:g}; try a tenth of it){warmup}. If it fails in the first step, set "
        "precision: fp32, and check the model and the text."
    )
