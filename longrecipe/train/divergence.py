"""Stop training that diverges, at the first loss or gradient that is not finite, and suggest a fix."""

import logging
import math
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel, TrainerCallback

from longrecipe.system.errors import DivergedError
from longrecipe.train.guard import SkippedPositionsError, check_skipped_positions
from longrecipe.train.settings import Stage

log = logging.getLogger(__name__)
# Warn if the final loss is above this multiple of the initial one, and at least this many nats above it.
_FACTOR, _NATS = 1.5, 0.5


class StopAtNonFinite(TrainerCallback):
    """Stop training at the first optimizer step whose loss or gradient norm is not finite, before it is saved.

    Raises DivergedError in every process, because all of them log the same mean. Trainer must log every step and have
    logging_nan_inf_filter off, which would log NaN as 0.
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
                    f"{self.stage.steps}, with a learning rate of {self.rate:.3g}. {advice(self.stage)}"
                )


def check_trained(network: PreTrainedModel | None, weights: Iterable[tuple[str, torch.Tensor]], stage: Stage) -> None:
    """Check the trained weights before a stage counts as finished.

    Args: network: the trained model, for the check of skipped positions, or None to skip this check. It passed before
    training; if it fails now, the weights have grown so much that attention ignores tokens. weights: name and tensor.
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
            f"{stage.name}: the trained model is unusable: attention no longer reaches all tokens, or gradients are "
            f"not finite, unlike before training. {advice(stage)}"
        ) from error


def warn_if_worse(losses: list[float], stage: Stage) -> None:
    """Log a warning if the mean loss of the last tenth of the steps is far above that of the first tenth."""
    tenth = max(1, len(losses) // 10)
    start, end = (sum(some) / tenth for some in (losses[:tenth], losses[-tenth:]))
    if end > max(_FACTOR * start, start + _NATS):
        log.warning("%s: the loss rose from %.2f to %.2f: the model got worse. %s", stage.name, start, end, _try(stage))


def first_not_finite(weights: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or infinite value; None if all values are finite."""
    return next((name for name, tensor in weights if not _is_finite(tensor)), None)


def _is_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # Both are NaN if any value is. On a CPU, 30 times faster than isfinite on all values.
    low, high = torch.aminmax(tensor.detach())
    return bool(low.isfinite() & high.isfinite())


def advice(stage: Stage) -> str:
    """A suggestion for the user after a stage has diverged."""
    return f"The stage is not finished and will not be used. {_try(stage)}"


def _try(stage: Stage) -> str:
    key = {"H'": "probe", "extend": "extend", "replay": "replay"}.get(stage.name)
    name = f"{key}_learning_rate" if key else "the learning rate"
    # Replay has no warmup.
    warmup = "" if key == "replay" else f", or raise warmup_steps ({stage.warmup_steps})"
    return (
        f"Lower {name} ({stage.learning_rate:g}; try a tenth of it){warmup}. If training fails in the first step, set "
        "precision: fp32, and check the model and the text."
    )
