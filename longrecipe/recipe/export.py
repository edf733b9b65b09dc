"""Export the extended model as a folder for all readers: the files of the base with merged weights and new lengths.

dtype, shards, chat template, generation settings, special tokens and licence are those of the base. The RoPE base and
all lengths are new. The folder appears when it is complete.
"""

import fnmatch
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from longrecipe import models
from longrecipe.merge import merge_weights
from longrecipe.models.checkpoint import WEIGHTS
from longrecipe.models.formats import readable_config, readable_tokenizer
from longrecipe.recipe.card import card, display_name, file_name, local_name, origin, versions
from longrecipe.settings import Params
from longrecipe.system.errors import reason
from longrecipe.system.files import locked, read_json, write_json, write_text
from longrecipe.system.paths import PACKAGE, cache_dir, is_hub_id, root, user_path

log = logging.getLogger(__name__)
# A file in each export that tells a later export that it may replace the folder.
RECORD = "longrecipe.json"
# Only these files are copied from the base's folder: tokenizers and licences. Upper and lower case do not matter.
TOKENIZER = (
    "tokenizer*.json",
    "tokenizer*.txt",
    "tokenizer.model*",
    "tekken*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*.json",
    "*.jinja",
    "*.model",
    "*.tiktoken",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "merges.txt",
)
LICENCES = ("license*", "licence*", "notice*", "copying*", "use_policy*")
# Keys that older models have in config.json with the same meaning as max_position_embeddings.
_LENGTHS = ("n_positions", "n_ctx", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "max_length")
_LENGTHS += ("model_max_length",)
# The default of max_length in transformers, which is not a window.
_NO_WINDOW = 20
_FIX = "name another folder (--out FOLDER, or the settings key out)"


class ExportError(ValueError):
    """The export folder cannot be written."""


def out_folder(params: Params) -> Path:
    """The absolute path of a run's export: the setting out, relative to the working directory, or a folder with the
    run's name in exports/ of the repository.
    """
    if params.out is None:
        name = f"{display_name(params)}-{params.method_slug}-{params.target_length}-seed{params.seed}"
        return (root() / "exports" / file_name(name)).resolve()
    return user_path(params.out).resolve()


def check_out(params: Params) -> Path:
    """Find the folder of a run's export, and check that it can be written.

    The folder may be missing, empty, or an earlier export, which will be replaced. Nothing is written.

    Returns:
        The folder's absolute path, as in `out_folder`.

    Raises:
        ExportError: if the path is a file, a folder with other content, a mount point, the base's folder or inside it,
            or not writable.
    """
    out = out_folder(params)
    bases = [PACKAGE, *([user_path(params.source).resolve()] if user_path(params.source).is_dir() else [])]
    for base in bases:
        if out.is_relative_to(base) or base.is_relative_to(out):
            raise ExportError(f"out = {out}: it is, contains or is inside {base}, which must stay as it is; {_FIX}")
    nearest = out
    try:
        nearest = next(path for path in (out, *out.parents) if path.exists())
        if not nearest.is_dir():
            raise ExportError(f"out = {out}: {nearest} is a file, but must be a folder; {_FIX}")
        if nearest == out:
            if os.path.ismount(out):
                raise ExportError(
                    f"out = {out}: it is a mount point, which cannot be replaced; name a folder inside it"
                )
            _check_content(out)
            nearest = out.parent
        # With the real name, because it may be too long.
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=_part(out).name):
            pass
    except OSError as error:
        raise ExportError(f"out = {out}: {nearest} cannot be written to ({reason(error)}); {_FIX}") from error
    return out


def export(
    params: Params,
    replayed_dir: Path,
    texts: Mapping[str, str],
    numbers: Mapping[str, Mapping] | None = None,
    *,
    commits: Mapping[str, str] | None = None,
) -> Path:
    """Merge the base with its replayed model into the folder of `check_out`.

    Args:
        params: the run's settings.
        replayed_dir: the model folder of stage 2; its configuration has the RoPE of T tokens.
        texts: the SHA-256 of each text, by its use.
        numbers: `evaluate.Report.numbers()` by stage, for the model card; None if nothing was measured.
        commits: those of the models and datasets that were read from a hub, by id.

    Returns:
        The folder, with weights, config.json, generation_config.json if the base has one, tokenizer, licence, model
        card (README.md), and a record of the run (longrecipe.json).

    Raises:
        ExportError: as `check_out`.
        MergeError: as `merge.merge_weights`.
    """
    # In the cache, because only the export itself stays in the user's folder.
    lock = cache_dir() / "exports" / file_name(str(out_folder(params)))
    with locked(lock, f"exports to {out_folder(params)}"):
        return _export(params, replayed_dir, texts, numbers, commits=commits or {})


def _export(
    params: Params,
    replayed_dir: Path,
    texts: Mapping[str, str],
    numbers: Mapping[str, Mapping] | None,
    *,
    commits: Mapping[str, str],
) -> Path:
    out, base = check_out(params), models.folder_of(params.source, params.scale)
    part = _part(out)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        merge_weights(base, replayed_dir, part, weight=params.merge_weight, rule=params.merge_rule, layout="original")
        config = AutoConfig.from_pretrained(replayed_dir, local_files_only=True)
        length = config.max_position_embeddings
        write_json(part / "config.json", config_at(read_json(base / "config.json"), config))
        if (base / "generation_config.json").is_file():
            write_json(
                part / "generation_config.json", generation_at(read_json(base / "generation_config.json"), length)
            )
        copy_small_files(base, part)
        set_tokenizer_length(part, length)
        about = card(params, config, texts, base=origin(params, base), numbers=numbers, commits=commits)
        write_text(part / "README.md", about)
        write_json(part / RECORD, _record(params, texts, part, commits=commits))
        _put(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    log.info("exported to %s", out)
    return out


def config_at(settings: Mapping[str, Any], extended: Any) -> dict[str, Any]:
    """The base's config.json with the RoPE and the lengths of the extended configuration.

    auto_map is dropped because the Python files that it names are not copied; the model was trained with a class of
    transformers. _name_or_path is dropped if it is a path.
    """
    result = readable_config(settings, extended)
    length = extended.max_position_embeddings
    result["max_position_embeddings"] = length
    result |= {key: length for key in _LENGTHS if _is_length(settings.get(key))}
    result.pop("auto_map", None)
    if not is_hub_id(str(result.get("_name_or_path", ""))):
        result.pop("_name_or_path", None)
    return result


def generation_at(settings: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The base's generation_config.json. If it has a max_length, this becomes the new length."""
    return dict(settings) | ({"max_length": length} if _is_length(settings.get("max_length")) else {})


def copy_small_files(base: Path, folder: Path) -> None:
    """Copy tokenizer files and licences of a model folder without changes. Links are followed."""
    for path in sorted(base.iterdir()):
        wanted = any(fnmatch.fnmatchcase(path.name.lower(), pattern) for pattern in TOKENIZER + LICENCES)
        if wanted and path.is_file() and not path.name.endswith((*WEIGHTS, ".py")):
            shutil.copyfile(path, folder / path.name)
    templates = base / "additional_chat_templates"
    if templates.is_dir():
        (folder / templates.name).mkdir()
        for path in sorted(templates.glob("*.jinja")):
            shutil.copyfile(path, folder / templates.name / path.name)


def set_tokenizer_length(folder: Path, length: int) -> None:
    """Set the length at which a tokenizer truncates, in tokenizer_config.json and, if it has one, in tokenizer.json.

    tokenizer_config.json is made if it is missing, because transformers reads the length from it.
    """
    path = folder / "tokenizer_config.json"
    settings = readable_tokenizer(read_json(path) if path.is_file() else {})
    settings.pop("auto_map", None)
    settings |= {"model_max_length": length}
    settings |= {"max_length": length} if _is_length(settings.get("max_length")) else {}
    write_json(path, settings)
    fast = folder / "tokenizer.json"
    if fast.is_file() and (truncation := (content := read_json(fast)).get("truncation")):
        content["truncation"] = truncation | {"max_length": length}
        write_json(fast, content)


def _part(out: Path) -> Path:
    """The temporary name of an export while it is written."""
    return out.with_name(f".{out.name}.longrecipe-part")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and value > _NO_WINDOW


def _record(params: Params, texts: Mapping[str, str], folder: Path, *, commits: Mapping[str, str]) -> dict[str, Any]:
    settings = params.model_dump(mode="json", exclude={"out"})
    # Paths of this machine mean nothing to readers of the folder.
    settings |= {key: local_name(settings[key]) for key in ("weights", "text", "replay_text") if settings.get(key)}
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {
        "made_by": "longrecipe",
        "versions": versions(),
        "settings": settings,
        "texts_sha256": dict(texts),
        "revisions": dict(commits),
        "bytes": dict(sorted(files.items())),
    }


def _check_content(out: Path) -> None:
    """Raise ExportError if a folder has anything that was not written by an earlier export."""
    found = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not found and not any(out.iterdir()):
        return
    try:
        record = read_json(out / RECORD)
        ours = {RECORD, *record["bytes"]} if record["made_by"] == "longrecipe" else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if not ours:
        raise ExportError(f"out = {out}: the folder is not empty and is no export of longrecipe; {_FIX}, or empty it")
    if others := sorted(found - ours):
        raise ExportError(
            f"out = {out}: this earlier export would be replaced, but it also holds {', '.join(others[:3])}, which "
            f"longrecipe did not write; move that away, or {_FIX}"
        )


def _put(part: Path, out: Path) -> None:
    """Rename a finished folder. An earlier export with the same name is moved away first and deleted at the end."""
    old = out.with_name(f".{out.name}.longrecipe-old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        log.info("%s is replaced", out)
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)
