"""Upload an extended model to the hub, after checks that its folder is complete."""

from pathlib import Path

from huggingface_hub import HfApi

from longrecipe.models.checkpoint import read_checkpoint
from longrecipe.recipe.card import licence_of
from longrecipe.recipe.export import RECORD
from longrecipe.system.errors import reason
from longrecipe.system.files import read_json
from longrecipe.system.paths import is_hub_id, user_path

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_folder(folder: Path) -> dict[str, int]:
    """The files of an export, with their sizes in bytes.

    Other files in the folder are not part of the export. README.md may have been edited.
    Raises ValueError if the folder is no export of longrecipe, if it is incomplete, or if README.md has no licence.
    """
    fix = "name a folder that `longrecipe train` wrote, or export the model again"
    if not (folder / RECORD).is_file():
        there = f"has no {RECORD}" if folder.is_dir() else "does not exist"
        raise ValueError(f"{folder} {there}: {fix}.")
    record = read_json(folder / RECORD, fix)
    if not isinstance(record, dict) or record.get("made_by") != "longrecipe" or "bytes" not in record:
        raise ValueError(f"{folder / RECORD} is not the record of an export: {fix}.")
    for name, n_bytes in record["bytes"].items():
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{path} is missing: {fix}.")
        if path.suffix == ".safetensors" and path.stat().st_size != n_bytes:
            raise ValueError(f"{path} has {path.stat().st_size:,} bytes instead of {n_bytes:,}: {fix}.")
    names = [*record["bytes"], RECORD]
    read_checkpoint(folder)
    if not any(name in names for name in _TOKENIZERS):
        raise ValueError(f"{folder} has no tokenizer (one of {', '.join(_TOKENIZERS)}): {fix}.")
    if not (folder / "README.md").is_file() or not licence_of(folder):
        raise ValueError(
            f"{folder / 'README.md'} states no licence: add a line such as `license: apache-2.0`, with the licence of "
            "the base model, to the block between --- and --- at its start."
        )
    return {name: (folder / name).stat().st_size for name in sorted(names)}


def check_repository(repository: str) -> None:
    """Raise ValueError if a name is not that of a repository, owner/name."""
    if not is_hub_id(repository) or "@" in repository:
        raise ValueError(f"{repository!r} is not the name of a repository: write owner/name, without a revision.")


def push(folder: Path, repository: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload an export with its model card. Returns the address of the model.

    The repository is made if it does not exist, and each upload is a commit, so that nothing is lost.
    Args: private, whether a new repository is private; revision, a branch to upload to, made if it does not exist.
    Raises the errors of `check_folder` and `check_repository` before the upload, PermissionError if no one is logged
    in, and ConnectionError if the upload fails.
    """
    check_repository(repository)
    folder = user_path(folder)
    files = check_folder(folder)
    api = HfApi()
    # The exceptions of the hub's client differ between its versions.
    try:
        api.whoami()
    except Exception as error:
        raise PermissionError(
            f"not logged in to the hub ({reason(error)}): run `hf auth login`, or set HF_TOKEN to your token."
        ) from error
    try:
        url = str(api.create_repo(repository, private=private or None, exist_ok=True))
        if revision:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=list(files),
            commit_message="Upload a model that longrecipe extended",
        )
    except Exception as error:
        raise ConnectionError(
            f"the upload to {repository} failed ({reason(error)}): check that your token can write there, and run the "
            "same command again."
        ) from error
    return f"{url}/tree/{revision}" if revision else url
