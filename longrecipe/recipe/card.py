"""The model card of an extended model: a README.md for model hubs, written from the settings and numbers of the run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import longrecipe
from longrecipe import models, results
from longrecipe.evaluate import hits
from longrecipe.families import FAMILIES
from longrecipe.models.checkpoint import read_checkpoint
from longrecipe.models.rope import rope_theta
from longrecipe.models.smollm2 import HUB_ID
from longrecipe.positions import find
from longrecipe.settings import Params
from longrecipe.system.files import read_json
from longrecipe.system.paths import is_hub_id, split_revision, user_path

NOT_MEASURED = "Not measured: this model was not evaluated after merging."
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_LICENCE_KEYS = ("license", "license_name", "license_link")


@dataclass(frozen=True)
class Origin:
    """A base model: its name, its id on a hub or None, its licence as the metadata keys of hubs (empty if it is not
    stated), the dtypes of its weights, and its architecture."""

    name: str
    hub_id: str | None
    licence: Mapping[str, Any]
    dtype: str
    architecture: str


def origin(params: Params, folder: Path) -> Origin:
    """Read what the card says about a base model from its folder.

    The hub id is the one in the run's settings, or for a folder the one in its config.json, if it has the form of an
    id. The licence is the one in its README.md, or else a LICENSE file.
    """
    settings = read_json(folder / "config.json")
    hub_id = _asked_hub_id(params)
    if hub_id is None:
        written = str(settings.get("_name_or_path", ""))
        hub_id = written if is_hub_id(written) and not Path(written).exists() else None
    dtypes = {_DTYPES.get(dtype, dtype) for dtype in read_checkpoint(folder).dtypes.values()}
    architecture = (settings.get("architectures") or [settings.get("model_type", "not stated")])[0]
    name = _asked_hub_id(params) or local_name(params.source)
    return Origin(name, hub_id, licence_of(folder), ", ".join(sorted(dtypes)), architecture)


def display_name(params: Params) -> str:
    """The model's name as the user knows it: model, or the name in weights if model is one of the kit's own names."""
    kits = {*FAMILIES, "smollm2"}
    return local_name(params.weights).split("/")[-1] if params.weights and params.model in kits else params.model


def local_name(name: str) -> str:
    """A hub id without its revision, or the last part of a path, because the rest means nothing to others."""
    is_path = user_path(name).exists() or not is_hub_id(name)
    return user_path(name).name if is_path else split_revision(name)[0]


def file_name(name: str) -> str:
    """A name as a file name: characters other than letters, digits, dots and underscores become hyphens."""
    return re.sub(r"[^\w.]+", "-", name).lstrip(".")


def versions() -> dict[str, str]:
    """The versions of the libraries that a model is made with."""
    return {"longrecipe": longrecipe.__version__} | {name: version(name) for name in ("transformers", "torch")}


def card(
    params: Params,
    config: Any,
    texts: Mapping[str, str],
    *,
    base: Origin,
    numbers: Mapping[str, Mapping] | None = None,
    commits: Mapping[str, str] | None = None,
) -> str:
    """The text of a model's README.md: what the model was made from and how, and its measurements.

    Args: params of the run; config of the merged model; texts, the SHA-256 of each text by its use; base, the original
    model; numbers, `evaluate.Report.numbers()` by stage, with those of the base under the name base, or None if nothing
    was measured; commits, those that were read from a hub, by id.
    """
    p, name = params, display_name(params)
    front = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["longrecipe", "long-context"]}
    front |= dict(base.licence) | ({"base_model": base.hub_id} if base.hub_id else {})
    origin_row = base.name
    if base.hub_id and base.hub_id != base.name:
        origin_row += f" (its configuration names {base.hub_id})" if _asked_hub_id(p) is None else f" ({base.hub_id})"
    made_with = ", ".join(f"{library} {number}" for library, number in versions().items())
    recipe = {
        "base model": origin_row,
        "licence": _licence_row(base.licence),
        "architecture": base.architecture,
        "dtype": base.dtype,
        "window, tokens": f"{p.window:,} to {p.target_length:,}",
        "RoPE base": f"{rope_theta(config):,.0f}",
        **({"RoPE rule": p.rope_rule} if p.rope_rule != "ntk" else {}),
        "method": f"{p.method}, samples of {p.train_length:,} tokens ({p.train_length / p.target_length:.0%} of T)",
        **({"sentences": p.selection} if find(p.method).text == "selected" else {}),
        **({"loss weights": f"{p.loss_weight}, {p.weight_strength:g}"} if p.loss_weight != "none" else {}),
        "stage 1, extension": _stage(p, "extend"),
        "stage 2, replay": f"{_stage(p, 'replay')}; {p.replay_long_share:.0%} of the steps on stage-1 samples, "
        f"KL weight {p.replay_kl_weight:g}"
        + (f", weight of LongReD's term {p.replay_skip_weight:g}" if p.replay_skip_weight else ""),
        "stage 3, merge": f"weight of the original {p.merge_weight:g}, rule {p.merge_rule}",
        "seed": p.seed,
        **{f"{use}, SHA-256": f"`{digest}`" for use, digest in texts.items()},
        **{f"revision of {source}": f"`{commit}`" for source, commit in (commits or {}).items()},
        "made with": made_with,
    }
    lines = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        f"# {name}, {p.target_length:,} tokens",
        "",
        "A language model whose context window was extended by LongRecipe (arXiv 2409.00509) with the kit longrecipe.",
        "It only needs transformers: its RoPE and the longer window are in its config.json.",
        "",
        "| setting | value |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in recipe.items()),
        "",
        "## Measured",
        "",
        *(_measured(numbers, p) if numbers else [NOT_MEASURED]),
    ]
    return "\n".join(lines) + "\n"


def _asked_hub_id(params: Params) -> str | None:
    """The hub id in a run's settings, or None for a folder and for the mini models."""
    if params.scale == "small" and params.source == "smollm2":
        return HUB_ID
    asked = models.hub_id(params.source, params.scale)
    return asked and split_revision(asked)[0]


def licence_of(folder: Path) -> dict[str, Any]:
    """The licence in the metadata of a model folder's README.md, or else its LICENSE file; empty if it has neither."""
    readme = folder / "README.md"
    front = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.S) if readme.is_file() else None
    try:
        stated = yaml.safe_load(front[1]) if front else None
    except yaml.YAMLError:
        stated = None
    if isinstance(stated, dict) and stated.get("license"):
        return {key: stated[key] for key in _LICENCE_KEYS if stated.get(key)}
    files = sorted(path.name for path in folder.iterdir() if re.match(r"licen[sc]e", path.name, re.I))
    return {"license": "other", "license_link": files[0]} if files else {}


def _licence_row(licence: Mapping[str, Any]) -> str:
    if not licence:
        return "not stated"
    kind, link = licence.get("license_name") or licence["license"], licence.get("license_link")
    kind = ", ".join(map(str, kind)) if isinstance(kind, list) else str(kind)
    return f"{kind}, see {link}" if link else kind


def _stage(p: Params, name: str) -> str:
    steps, size, rate, schedule = (
        getattr(p, f"{name}_{key}") for key in ("steps", "batch_size", "learning_rate", "schedule")
    )
    return f"{steps} steps of {size} samples, learning rate {rate:g}, {schedule}"


def _measured(numbers: Mapping[str, Mapping], p: Params) -> list[str]:
    lengths = sorted({n for each in numbers.values() for n in each["niah_m"]}, key=int)
    passkeys = [n for n in lengths if any("passkey" in each["tasks"].get(n, {}) for each in numbers.values())]
    needles = results.needles_title(p.scale)
    columns = [f"{needles}, {int(n):,} tokens" for n in lengths] + [f"passkey, {int(n):,} tokens" for n in passkeys]
    rows = [
        f"Synthetic tasks by length: {needles} is the mean of multi-key, multi-value and multi-query needles in "
        f"{'held-out text' if p.eval_haystack == 'text' else 'a repeated passage'}; passkeys are shown if they were "
        "asked. "
        "Perplexity is measured at the shortest length; `kept` is the perplexity of the base divided by the model's.",
        "",
        f"| model | {' | '.join(columns)} | perplexity | kept |",
        f"| --- |{' --- |' * (len(columns) + 2)}",
    ]
    for stage, each in numbers.items():
        skill = [f"{each['niah_m'][n]['mean']:.3f}" if n in each["niah_m"] else "" for n in lengths]
        skill += [hits([each["tasks"][n]["passkey"]]) if n in each["tasks"] else "" for n in passkeys]
        kept = f"{numbers['base']['perplexity'] / each['perplexity']:.1%}" if "base" in numbers else ""
        rows.append(f"| {stage} | {' | '.join(skill)} | {each['perplexity']:.2f} | {kept} |")
    return rows
