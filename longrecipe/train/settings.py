"""The settings of one stage of training."""

from dataclasses import asdict, dataclass, field

from longrecipe.settings.memory import Setup

# Mixed precision in full: what small models are trained with.
PLAIN = Setup(optimizer="adamw_fp32", fp32_weights=True, checkpointing=False, fused_loss=False)


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training; learning_rate per optimizer step, batch_size in samples, kl_weight and
    skip_weight of the terms that keep the model near the original one on text within its window (0: none; see
    `trainer.StageTrainer`).

    A step's samples are read in `accumulation` batches of equal size; setup: how memory is spent (see `Setup`).
    report_to and run_name: the experiment tracker and the name of the run there (see `trackers.tracked`); they do not
    change the training.
    Raises ValueError if batch_size is no multiple of accumulation, for a kl_weight or skip_weight with a
    fused loss, and for a skip_weight with split samples.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    schedule: str = "linear"
    warmup_steps: int = 0
    save_steps: int = 10
    seed: int = 0
    precision: str = "auto"
    kl_weight: float = 0.0
    skip_weight: float = 0.0
    accumulation: int = 1
    setup: Setup = PLAIN
    options: dict = field(default_factory=dict)
    report_to: str = "none"
    run_name: str | None = None

    def __post_init__(self) -> None:
        if self.accumulation < 1 or self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size = {self.batch_size} cannot be read in accumulation = {self.accumulation} equal batches."
            )
        if self.skip_weight and self.setup.sequence_parallel > 1:
            raise ValueError(
                f"skip_weight = {self.skip_weight}: positions are skipped in whole samples only; set sequence_parallel "
                "to 1."
            )
        if self.setup.fused_loss and self.needs_original:
            raise ValueError(
                "fused_loss makes no logits and returns no hidden states, and the terms with kl_weight and skip_weight "
                "need them: set one of them to none."
            )

    @property
    def needs_original(self) -> bool:
        """Whether the loss compares the model with the original one."""
        return self.kl_weight > 0 or self.skip_weight > 0

    @property
    def record(self) -> dict:
        """The settings as plain values, without the tracker and how the work is split (which changes rounding)."""
        plain = asdict(self)
        del (
            plain["accumulation"],
            plain["report_to"],
            plain["run_name"],
            plain["setup"]["shards"],
            plain["setup"]["sequence_parallel"],
        )
        return plain
