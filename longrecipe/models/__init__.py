"""Models: loading by name or folder, the RoPE rule, and checkpoints on disk."""

from longrecipe.models.loading import (
    autocast_dtype,
    commit_of,
    config_of,
    described,
    device_kind,
    folder_of,
    hub_id,
    is_remote,
    load,
    load_tokenizer,
    new_mini,
    save,
)

__all__ = [
    "autocast_dtype",
    "commit_of",
    "config_of",
    "described",
    "device_kind",
    "folder_of",
    "hub_id",
    "is_remote",
    "load",
    "load_tokenizer",
    "new_mini",
    "save",
]
