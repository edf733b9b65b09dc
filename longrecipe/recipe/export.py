"""Write the extended model as a folder for every reader: the base's own files, at the new length, with merged weights.

dtype, shards, chat template, generation settings, special tokens and licence are the base's. The RoPE base and every
length are the new ones. The folder appears when it is complete, not before.
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
# A small file in each export, by which a later export knows that it may replace the folder.
RECORD = "longrecipe.json"
# What is copied from the base's folder: files of the tokenizer and licences (in any case). Nothing else is.
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
# Keys of a config.json that older models have for the same length as max_position_embeddings.
_LENGTHS = ("n_positions", "n_ctx", "max_sequence_length", "max_seq_length", "max_seq_len", "seq_length", "max_length")
_LENGTHS += ("model_max_length",)
# transformers' own default of max_length, which is no window.
_NO_WINDOW = 20
_CURE = "name another folder (--out FOLDER, or the settings key out)"


class ExportError(ValueError):
    """The folder asked for cannot be written."""


def out_folder(params: Params) -> Path:
    """The absolute path of a run's export: the setting out, relative to the working directory, or the run's name in
    exports/ of the repository.
    """
    if params.out is None:
        name = f"{display_name(params)}-{params.method_slug}-{params.target_length}-seed{params.seed}"
        return (root() / "exports" / file_name(name)).resolve()
    return user_path(params.out).resolve()


def check_out(params: Params) -> Path:
    """Find the folder that a run's export is written to, and check that it can be.

    It may not exist yet, or be empty, or be an earlier export, which will be replaced.

    Returns:
        The folder's absolute path, as `out_folder` gives it. Nothing is written.

    Raises:
        ExportError: a file with that name, a folder with other content, the base's own folder or one inside it, a mount
            point, or a place that cannot be written to.
    """
    out = out_folder(params)
    bases = [PACKAGE, *([user_path(params.source).resolve()] if user_path(params.source).is_dir() else [])]
    for base in bases:
        if out.is_relative_to(base) or base.is_relative_to(out):
            raise ExportError(f"out = {out}: it is or holds {base}, or is inside it, and that must stay; {_CURE}")
    nearest = out
    try:
        nearest = next(path for path in (out, *out.parents) if path.exists())
        if not nearest.is_dir():
            raise ExportError(f"out = {out}: {nearest} is a file, but must be a folder; {_CURE}")
        if nearest == out:
            if os.path.ismount(out):
                raise ExportError(
                    f"out = {out}: it is a mount point, which cannot be replaced; name a folder inside it"
                )
            _check_content(out)
            nearest = out.parent
        # With the name that is needed, as it may be too long.
        with tempfile.NamedTemporaryFile(dir=nearest, prefix=_part(out).name):
            pass
    except OSError as error:
        raise ExportError(f"out = {out}: {nearest} cannot be written to ({reason(error)}); {_CURE}") from error
    return out


def export(
    params: Params,
    replayed_dir: Path,
    texts: Mapping[str, str],
    numbers: Mapping[str, Mapping] | None = None,
) -> Path:
    """Merge the base with its replayed model into the folder that `check_out` gives, for every reader.

    Args:
        params: the run's settings.
        replayed_dir: the model folder of stage 2, whose configuration has the raised RoPE base.
        texts: the SHA-256 of each text that was read, by its use.
        numbers: `evaluate.Report.numbers()` by stage, for the card; None if nothing was measured.

    Returns:
        The folder: weights, config.json, generation_config.json if the base has one, tokenizer, licence, the model card
        README.md, and a record of the run, longrecipe.json.

    Raises:
        ExportError: as `check_out`.
        MergeError: as `merge.merge_weights`.
    """
    # Not next to the export: nothing but the export itself stays there.
    lock = cache_dir() / "exports" / file_name(str(out_folder(params)))
    with locked(lock, f"exports to {out_folder(params)}"):
        return _export(params, replayed_dir, texts, numbers)


def _export(
    params: Params, replayed_dir: Path, texts: Mapping[str, str], numbers: Mapping[str, Mapping] | None
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
        write_text(part / "README.md", card(params, config, texts, origin(params, base), numbers))
        write_json(part / RECORD, _record(params, texts, part))
        _put(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    log.info("exported to %s", out)
    return out


def config_at(settings: Mapping[str, Any], extended: Any) -> dict[str, Any]:
    """The base's config.json at the new length: all its keys, with the RoPE and the lengths of the configuration given.

    Keys that name Python files (auto_map) are dropped, as these files are not copied: transformers' own class trained
    the model. So is _name_or_path if it is a path of some machine.
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
    """The base's generation_config.json with max_length, if it has one, at the new length."""
    return dict(settings) | ({"max_length": length} if _is_length(settings.get("max_length")) else {})


def copy_small_files(base: Path, folder: Path) -> None:
    """Copy the tokenizer's files and the licences of a model folder, as they are; links are followed."""
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
    """Set the length at which a tokenizer truncates, in tokenizer_config.json, and in tokenizer.json if it is there.

    tokenizer_config.json is made if it is missing: transformers would know no length without it.
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
    """Where an export is written before it gets its name."""
    return out.with_name(f".{out.name}.longrecipe-part")


def _is_length(value: Any) -> bool:
    return isinstance(value, int | float) and value > _NO_WINDOW


def _record(params: Params, texts: Mapping[str, str], folder: Path) -> dict[str, Any]:
    settings = params.model_dump(mode="json", exclude={"out"})
    # A place on this machine is of no use to those who read the folder.
    settings |= {key: local_name(settings[key]) for key in ("weights", "text", "replay_text") if settings.get(key)}
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return {
        "made_by": "longrecipe",
        "versions": versions(),
        "settings": settings,
        "texts_sha256": dict(texts),
        "bytes": dict(sorted(files.items())),
    }


def _check_content(out: Path) -> None:
    """Raise ExportError if a folder holds anything that no earlier export wrote."""
    found = {str(path.relative_to(out)) for path in out.rglob("*") if not path.is_dir()}
    if not found and not any(out.iterdir()):
        return
    try:
        record = read_json(out / RECORD)
        ours = {RECORD, *record["bytes"]} if record["made_by"] == "longrecipe" else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if not ours:
        raise ExportError(f"out = {out}: the folder is not empty and is no export of longrecipe; {_CURE}, or empty it")
    if others := sorted(found - ours):
        raise ExportError(
            f"out = {out}: this earlier export would be replaced, but it also holds {', '.join(others[:3])}, which "
            f"longrecipe did not write; move that away, or {_CURE}"
        )


def _put(part: Path, out: Path) -> None:
    """Rename a finished folder to its name. What has that name is moved away first, and deleted after."""
    old = out.with_name(f".{out.name}.longrecipe-old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        log.info("%s is replaced", out)
        os.replace(out, old)
    os.replace(part, out)
    shutil.rmtree(old, ignore_errors=True)
