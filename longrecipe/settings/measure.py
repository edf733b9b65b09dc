"""The settings of what a run measures."""

from typing import Any, Literal

from pydantic import Field, field_validator

from longrecipe.settings.group import Group, Precision, read_list

MeasuredModel = Literal["base", "RoPE rule alone", "extended", "replayed", "merged", "paper's setting"]


class Measure(Group):
    """What is measured, on held-out text, and in which precision."""

    eval_documents: int = Field(
        50,
        ge=2,
        le=100_000,
        description="documents measured at T; twice as many at the shortest length, half as many between",
    )
    eval_facts: int = Field(
        4, ge=2, le=10_000, description="facts hidden in each document, asked for one by one and together"
    )
    eval_passkeys: int = Field(
        0,
        ge=0,
        le=100_000,
        description="documents with a passkey at T, half as many at shorter lengths; 0: no passkeys",
    )
    eval_haystack: Literal["text", "noise"] = Field(
        "text",
        description="where NIAH(M) hides facts; text: in held-out text; noise: in a repeated passage, as for passkeys",
    )
    eval_lengths: tuple[int, ...] | None = Field(
        None, min_length=1, description="lengths to measure besides W and T, such as [2048, 8192]; null: 2 W, 4 W, ..."
    )
    eval_stages: tuple[MeasuredModel, ...] | None = Field(
        None, min_length=1, description="models that notebook 03 measures, such as [base, merged]; null: all"
    )
    eval_steps: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="optimizer steps of stage 1 after which the model is measured, such as [10, 20]; 0: the RoPE rule "
        "alone; stage 1 is trained again for other steps, and each step keeps a copy of the weights in the cache; "
        "null: none",
    )
    eval_longppl: int = Field(
        6, ge=0, le=100_000, description="documents of T tokens whose LongPPL is measured; 0: none"
    )
    eval_precision: Precision = Field(
        "fp32", description="number format of measuring, with the same choices as precision"
    )

    @field_validator("eval_lengths", "eval_stages", "eval_steps", mode="before")
    @classmethod
    def _lists_as_text(cls, value: Any) -> Any:
        return read_list(value)

    @field_validator("eval_steps")
    @classmethod
    def _rise(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return value and tuple(sorted(set(value)))
