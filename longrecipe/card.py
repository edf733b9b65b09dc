"""The card of an extended model: a README.md as model hubs show it, made from the run that made the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longrecipe import models
from longrecipe.evaluate import hits
from longrecipe.params import Params
from longrecipe.positions import method
from longrecipe.rope import rope_theta

NOT_MEASURED = "Not measured: nothing has been asked of this model after it was merged."


def card(params: Params, config: Any, texts: Mapping[str, str], numbers: Mapping[str, Mapping] | None = None) -> str:
    """The text of a model's README.md: what it was made from and how, and what it can do.

    params: of the run; config: of the merged model; texts: the SHA-256 of each text that was read, by its use; numbers:
    `evaluate.Report.numbers()` by stage, the base's among them under the name base; None says that nothing was
    measured.
    """
    p = params
    name = models.HUB.get(p.source, p.source) if p.scale == "paper" else p.source
    # Of a folder on this machine its name is enough.
    on_hub = models.is_hub_id(name) and not Path(name).is_dir()
    name = name if on_hub else Path(name).name
    head = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:",
        "- longrecipe",
        "- long-context",
    ]
    if on_hub:
        head.append(f"base_model: {name}")
    recipe = {
        "base model": name,
        "window, tokens": f"{p.window:,} to {p.target_length:,}",
        "RoPE base": f"{rope_theta(config):,.0f}",
        "method": f"{p.method}, samples of {p.train_length:,} tokens ({p.train_length / p.target_length:.0%} of T)",
        **({"sentences": p.selection} if method(p.method).text == "selected" else {}),
        "stage 1, extension": _stage(p, "extend"),
        "stage 2, replay": f"{_stage(p, 'replay')}; {p.replay_long_share:.0%} of the steps on stage-1 samples, "
        f"KL weight {p.replay_kl_weight:g}",
        "stage 3, merge": f"weight of the original {p.merge_weight:g}, rule {p.merge_rule}",
        "seed": p.seed,
        **{f"{use}, SHA-256": f"`{digest}`" for use, digest in texts.items()},
    }
    lines = [
        *head,
        "---",
        f"# {p.model}, {p.target_length:,} tokens",
        "",
        "A language model whose context window was extended by LongRecipe (arXiv 2409.00509) with the kit longrecipe.",
        "It needs no code but transformers': the raised RoPE base and the longer window stand in its config.json.",
        "",
        "| setting | value |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in recipe.items()),
        "",
        "## Measured",
        "",
        *(_measured(numbers, p.eval_haystack) if numbers else [NOT_MEASURED]),
    ]
    return "\n".join(lines) + "\n"


def _stage(p: Params, name: str) -> str:
    steps, size, rate, schedule = (
        getattr(p, f"{name}_{key}") for key in ("steps", "batch_size", "learning_rate", "schedule")
    )
    return f"{steps} steps of {size} samples, learning rate {rate:g}, {schedule}"


def _measured(numbers: Mapping[str, Mapping], haystack: str) -> list[str]:
    first = next(iter(numbers.values()))
    lengths = sorted(first["niah_m"], key=int)
    passkeys = [n for n in lengths if "passkey" in first["tasks"][n]]
    columns = [f"NIAH(M), {int(n):,} tokens" for n in lengths] + [f"passkey, {int(n):,} tokens" for n in passkeys]
    rows = [
        "Synthetic tasks: NIAH(M), the mean of multi-key, multi-value and multi-query needles in "
        f"{'held-out text' if haystack == 'text' else 'a passage repeated over and over'}, and passkeys where they "
        "were asked, by length; perplexity at the shortest of them, and what is kept of it (the "
        "base's over the model's).",
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
