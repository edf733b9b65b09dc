"""The settings of standard benchmarks: which suites score the models of a run, and on which prompts."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from longrecipe.settings.group import Group, read_list

BenchSuite = Literal["niah_m", "needles", "ruler", "longbench", "mmlu", "gsm8k", "humaneval"]


class Bench(Group):
    """Standard benchmarks, by lm-evaluation-harness. All models of a run are scored on the same prompts."""

    bench_suites: tuple[BenchSuite, ...] | None = Field(
        None, min_length=1, description="suites of benchmarks, such as [ruler, mmlu]; null: none"
    )
    bench_lengths: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="lengths of the prompts of RULER and needles in tokens, such as [8192, 131072]; null: W and T",
    )
    bench_limit: int | None = Field(
        20,
        ge=1,
        description="prompts of each task (of RULER and needles: and of each length, at most 500); null: all; paper: "
        "not stated",
    )
    bench_without: tuple[str, ...] | None = Field(
        None, min_length=1, description="tasks that are left out, such as [ruler_qa_squad, ruler_qa_hotpot]"
    )
    bench_data: str | None = Field(
        None,
        description="folder with datasets in the hub's layout, such as openai/gsm8k; null: they come from the hub",
    )
    bench_haystack: str | None = Field(
        None,
        description="text that needles are hidden in: a file, a folder, or english, the English text from the Python "
        "installation; null: Paul Graham's essays, as in RULER",
    )
    bench_fill: bool = Field(
        False,
        description="make RULER's prompts as long as fits; false: as lm-evaluation-harness does, up to half shorter",
    )
    bench_chat_template: bool = Field(False, description="put prompts into the chat template of the tokenizer")
    bench_allow_code: bool = Field(
        False, description="let humaneval run the code that a model has written, on this machine"
    )

    @field_validator("bench_suites", "bench_lengths", "bench_without", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return read_list(value)

    @model_validator(mode="after")
    def _may_run(self) -> "Bench":
        if shorter := [n for n in self.bench_lengths or () if n < 512]:
            raise ValueError(f"bench_lengths = {list(self.bench_lengths)}: {shorter[0]} is too short, at least 512")
        if "humaneval" in (self.bench_suites or ()) and not self.bench_allow_code:
            raise ValueError(
                "bench_suites: humaneval runs code that the model has written, on this machine and without a sandbox; "
                "set bench_allow_code to true (--allow-code) to allow it, or leave the suite out"
            )
        return self
