"""The parameters of notebook 05, checked before anything is computed."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import PreTrainedConfig

from longrecipe import cost, models
from longrecipe.cost import DEVICES, GB, Device, Memory
from longrecipe.families import FAMILIES, OF_THE_PAPER
from longrecipe.positions import find
from longrecipe.settings import checked, given_in


class Question(BaseModel):
    """The parameters of notebook 05: a model, how it is trained, on which GPU, and its price."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    model: str = Field(description="a name of this scale, or a folder with a config.json")
    scale: str = Field(description="mini, small or paper")
    method: str = Field(description="a method of positions.METHODS that trains")
    target_length: int = Field(ge=16, le=2**24, description="T, tokens")
    ratio: float = Field(gt=0, le=1, description="tokens of a sample as a share of T; flt uses all of T")
    gpu: str = Field(description="a name of cost.DEVICES")
    host_gb: float = Field(ge=0, description="host memory per GPU, GB")
    price_per_gpu_hour: float = Field(ge=0, description="USD")
    tokens_millions: float = Field(gt=0, description="tokens of stage 1 at this ratio; flt reads as many samples")

    @model_validator(mode="after")
    def _is_known(self) -> "Question":
        if find(self.method).positions is None:
            raise ValueError(f"method = {self.method!r}: does not train, so it costs nothing; use another method")
        if self.gpu not in DEVICES:
            raise ValueError(f"gpu = {self.gpu!r}: allowed are {', '.join(DEVICES)}")
        try:
            models.config_of(self.model, self.scale)
        except FileNotFoundError as error:
            known = f"mini and paper: {', '.join(FAMILIES)}; small: smollm2"
            raise ValueError(f"model = {self.model!r} at scale {self.scale!r}: allowed are {known}") from error
        if self.short < 16:
            raise ValueError(f"ratio = {self.ratio}: gives {self.short} tokens a sample; at least 16 are needed")
        return self

    @property
    def config(self) -> PreTrainedConfig:
        """The model's configuration."""
        return models.config_of(self.model, self.scale)

    @property
    def device(self) -> Device:
        """The GPU."""
        return DEVICES[self.gpu]

    @property
    def short(self) -> int:
        """n, tokens of a sample for methods that read a share of the target."""
        return int(self.ratio * self.target_length)

    @property
    def n_tokens(self) -> int:
        """Tokens of one sample of the method."""
        return self.tokens_of(self.method)

    @property
    def n_samples(self) -> float:
        """Samples of stage 1, the same for every method."""
        return 1e6 * self.tokens_millions / self.short

    @property
    def families(self) -> list[str]:
        """The paper's families at this scale, and the model."""
        others = OF_THE_PAPER if self.scale in ("mini", "paper") else ()
        return list(dict.fromkeys([*others, self.model]))

    def tokens_of(self, method: str) -> int:
        """Tokens of one sample of another method."""
        return self.target_length if find(method).text == "whole" else self.short

    def check(self) -> Memory:
        """Memory of this training; raises DoesNotFitError with settings that fit (`cost.check_fits`)."""
        return cost.check_fits(
            self.config, self.n_tokens, gpu_bytes=self.device.memory_bytes, host_bytes=self.host_gb * GB
        )


def from_notebook(namespace: Mapping[str, Any]) -> Question:
    """The Question from the parameters cell of a notebook (`globals()`), see `settings.given_in`.

    Raises ParamsError with the allowed values, and OSError if the cache cannot be written.
    """
    return checked(Question, given_in(namespace, Question.model_fields), source="the notebook")
