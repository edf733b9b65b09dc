"""How a run uses memory, from its settings and the processes that train it."""

from longrecipe.settings import Params, Setup
from longrecipe.system.processes import n_processes
from longrecipe.train.sharding import shards_asked
from longrecipe.train.trainer import n_readers


def setup_of(params: Params) -> Setup:
    """How a run uses memory: its settings, and whether the launcher shards the weights."""
    return Setup.of(params, shards=shards_asked(n_processes()))


def rows_at_once(params: Params, batch_size: int) -> int:
    """Samples of a step that a GPU reads at a time: the largest divisor of its share, at most samples_at_once.

    batch_size: samples of an optimizer step, on all GPUs.
    """
    share = max(1, batch_size // n_readers(setup_of(params)))
    most = min(share, params.samples_at_once or share)
    return next(rows for rows in range(most, 0, -1) if share % rows == 0)
