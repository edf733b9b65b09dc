"""Settings of notebook 00, which shows a mini model and can train it again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longrecipe.families import FAMILIES, FactValues, mini_name
from longrecipe.models.loading import folder_of
from longrecipe.settings.errors import checked
from longrecipe.settings.notebook import given_in
from longrecipe.system.files import check_writable
from longrecipe.system.paths import cache_dir, user_path


class MiniParams(BaseModel):
    """Which mini model notebook 00 shows, and whether it is trained again."""

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    model: str = Field(min_length=1, description=f"{', '.join(FAMILIES)}; or a folder of one, without retrain")
    fact_values: FactValues = Field("numbers", description="values of the facts that it recalls")
    retrain: bool = Field(False, description="train the model again")
    seed: int = Field(0, ge=0, lt=2**31, strict=True, description="of the retraining")
    out_dir: str | None = Field(None, min_length=1, description="of a retrained model; None: cache/mini/<model>")

    @model_validator(mode="after")
    def _is_known(self) -> "MiniParams":
        if self.retrain and self.model not in FAMILIES:
            raise ValueError(f"model = {self.model!r}: mini architectures are {', '.join(FAMILIES)}")
        try:
            check_writable(self.folder, "out_dir") if self.retrain else self.folder
        except OSError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def folder(self) -> Path:
        """The folder of the model, or of the retrained model. Raises FileNotFoundError if there is no such model."""
        name = mini_name(self.model, self.fact_values) if self.model in FAMILIES else self.model
        if not self.retrain:
            return folder_of(name)
        return user_path(self.out_dir) if self.out_dir else cache_dir() / "mini" / name


def mini_from_notebook(namespace: Mapping[str, Any]) -> MiniParams:
    """The settings of notebook 00, from its namespace (`globals()`), see `given_in`.

    Raises ParamsError for unknown names and invalid values, and OSError if the cache cannot be written.
    """
    return checked(MiniParams, given_in(namespace, MiniParams.model_fields), source="the notebook")
