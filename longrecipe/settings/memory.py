"""How training uses memory."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from longrecipe.settings.group import Group

Optimizer = Literal["adamw_fp32", "adamw_bf16", "adamw_8bit", "adamw_4bit"]


class Memory(Group):
    """How training uses memory. The defaults suit small models; those of params/paper save memory."""

    samples_at_once: int | None = Field(
        None,
        ge=1,
        description="most samples that a GPU reads at a time; their gradients are summed over a step; null: all",
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = Field(
        "auto",
        description="auto: sdpa, which is PyTorch's own, or flash-attn if it is installed, on GPUs older than Hopper",
    )
    optimizer: Optimizer = Field(
        "adamw_fp32",
        description="AdamW, by the precision of its moments; 8bit and 4bit need torchao and round stochastically",
    )
    fp32_weights: bool = Field(True, description="train a float32 copy of the weights; false: only bfloat16 weights")
    fp32_accumulation: bool = Field(
        False, description="sum the gradients of a step's batches in float32, for weights in bfloat16"
    )
    checkpointing: bool = Field(
        False, description="keep only the input of each block, and compute the rest again in the backward pass"
    )
    offload_activations: bool = Field(
        False, description="move the inputs that checkpointing keeps to the host's memory"
    )
    keep_attention: bool = Field(
        False, description="checkpointing keeps the outputs of attention, too, and computes less again"
    )
    compile: bool = Field(
        False, description="compile the blocks (torch.compile), so that norms, SiLU and residuals move less memory"
    )
    fused_loss: bool = Field(
        False, description="compute the loss in chunks, so that the logits of all tokens are never in memory"
    )
    loss_chunk: int = Field(4096, ge=1, description="tokens in a chunk of the fused loss")
    sequence_parallel: int = Field(1, ge=1, description="GPUs that share the tokens of one sample")

    @model_validator(mode="after")
    def _can_be_set_up(self) -> "Memory":
        Setup.of(self)
        if self.keep_attention and self.attention == "eager":
            raise ValueError(
                "keep_attention = True with attention = 'eager': it keeps what attention kernels return, and eager "
                "attention has none; set attention to auto, or keep_attention to false."
            )
        return self


@dataclass(frozen=True)
class Setup:
    """How training uses memory in a plan or a stage: the settings of `Memory` that training and cost models read,
    with the defaults of a 7B model on one GPU.

    offload_optimizer: the moments are kept in the host's memory. shards: number of GPUs among which weights, gradients
    and moments are split (FSDP2, ZeRO-3); in training either 1 or all processes.
    Raises ValueError for values that are not allowed.
    """

    optimizer: str = "adamw_8bit"
    fp32_weights: bool = False
    fp32_accumulation: bool = False
    checkpointing: bool = True
    offload_activations: bool = False
    offload_optimizer: bool = False
    keep_attention: bool = False
    compile: bool = False
    fused_loss: bool = True
    loss_chunk: int = 4096
    shards: int = 1
    sequence_parallel: int = 1

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(Optimizer):
            raise ValueError(f"optimizer = {self.optimizer!r}: allowed are {', '.join(get_args(Optimizer))}.")
        for name in ("loss_chunk", "shards", "sequence_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be 1 or more.")
        if self.keep_attention and not self.checkpointing:
            raise ValueError(
                "keep_attention = True: without checkpointing, everything is kept; set checkpointing as well."
            )
        if self.offload_activations and not self.checkpointing:
            raise ValueError(
                "offload_activations = True: it moves the inputs that checkpointing keeps; set checkpointing as well."
            )

    def changes(self, usual: "Setup") -> dict[str, Any]:
        """The fields in which it differs from another setup, and their values."""
        return {key: value for key, value in asdict(self).items() if value != getattr(usual, key)}

    @classmethod
    def of(cls, settings: Memory, shards: int = 1) -> "Setup":
        """The setup of a run, from its settings of the same names."""
        names = {field.name for field in fields(cls)} & Memory.model_fields.keys()
        return cls(**{name: getattr(settings, name) for name in names}, shards=shards)
