"""How training spends memory."""

from dataclasses import dataclass

OPTIMIZERS = ("adamw_fp32", "adamw_bf16", "adamw_8bit", "adamw_4bit")


@dataclass(frozen=True)
class Setup:
    """How training spends and saves memory; weights and computation in bfloat16 unless fp32_weights.

    optimizer: adamw_fp32, adamw_bf16, adamw_8bit or adamw_4bit, by the bits of its moments. fp32_weights: a float32
    copy of the weights is trained (mixed precision); bfloat16 weights alone need stochastic rounding.
    fp32_accumulation: gradients of the batches of a step are summed in float32. checkpointing: only each block's input
    is kept for the backward pass; offload_activations: in the host's memory. offload_optimizer: the moments are there.
    fused_loss: logits are made for loss_chunk tokens at a time. shards: weights, gradients and moments are split among
    so many GPUs (FSDP2, ZeRO-3), in training all processes or 1; sequence_parallel: the tokens of a sample are.
    """

    optimizer: str = "adamw_8bit"
    fp32_weights: bool = False
    fp32_accumulation: bool = False
    checkpointing: bool = True
    offload_activations: bool = False
    offload_optimizer: bool = False
    fused_loss: bool = True
    loss_chunk: int = 4096
    shards: int = 1
    sequence_parallel: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer = {self.optimizer!r}: allowed are {', '.join(OPTIMIZERS)}.")
        for name in ("loss_chunk", "shards", "sequence_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 1 or more.")
        if self.offload_activations and not self.checkpointing:
            raise ValueError(
                "offload_activations moves the inputs that checkpointing keeps: set checkpointing as well."
            )
