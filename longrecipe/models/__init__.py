"""Models: loading by name or folder, the RoPE rule, checkpoints on disk, and how the mini models are made."""

from longrecipe.models.loading import (
    ARCHITECTURES,
    HUB,
    SHAPES,
    VOCABULARY,
    WINDOW,
    autocast_dtype,
    config_of,
    folder_of,
    hub_id,
    is_remote,
    load,
    load_tokenizer,
    new_mini,
    save,
)

__all__ = [
    "ARCHITECTURES",
    "HUB",
    "SHAPES",
    "VOCABULARY",
    "WINDOW",
    "autocast_dtype",
    "config_of",
    "folder_of",
    "hub_id",
    "is_remote",
    "load",
    "load_tokenizer",
    "new_mini",
    "save",
]
