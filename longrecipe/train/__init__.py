"""Training: stages run by transformers.Trainer, which resume where they stopped, for models of 1M to 8B parameters."""

from longrecipe.system.errors import DivergedError
from longrecipe.train.accumulation import Float32Gradients
from longrecipe.train.checkpoints import damaged_model, latest_checkpoint
from longrecipe.train.divergence import first_not_finite
from longrecipe.train.options import attention_of, check_installed, trainer_options, weights_dtype
from longrecipe.train.sequence_parallel import Context
from longrecipe.train.sequence_parallel_check import check_sequence_parallel
from longrecipe.train.settings import PLAIN, Stage
from longrecipe.train.sharding import shards_asked
from longrecipe.train.stage import Trained, run_stage
from longrecipe.train.trackers import check_tracker
from longrecipe.train.trainer import StageTrainer, kl_divergence, n_readers

__all__ = [
    "PLAIN",
    "Context",
    "DivergedError",
    "Float32Gradients",
    "Stage",
    "StageTrainer",
    "Trained",
    "attention_of",
    "check_installed",
    "check_sequence_parallel",
    "check_tracker",
    "damaged_model",
    "first_not_finite",
    "kl_divergence",
    "latest_checkpoint",
    "n_readers",
    "run_stage",
    "shards_asked",
    "trainer_options",
    "weights_dtype",
]
