"""The whole recipe of a run in few calls: train all stages, measure all models, export and check.

Each function also accepts method none, the control that trains nothing, and then returns what there is.
"""

import functools
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from longrecipe.claims import interval, number
from longrecipe.data.samples import WEIGHTS, rows_of
from longrecipe.data.sentences import token_strings
from longrecipe.data.weights import SCHEMES
from longrecipe.evaluate import Report
from longrecipe.recipe.check_export import check_export
from longrecipe.recipe.stages import Recipe
from longrecipe.settings import Params
from longrecipe.settings.paper import REPLAY_AND_MERGE, STATED
from longrecipe.tokens import Analysis, TokenTypes, types_by_class, types_by_fact
from longrecipe.train import Trained

SHORT_ONLY, AS_IN_PAPER = "replayed, short text only", "paper's setting"
# Models that are only compared with are measured on two documents in five, beyond the shortest length.
_SHARE = 0.4
_SHARES = dict.fromkeys(("RoPE rule alone", "replayed", AS_IN_PAPER), _SHARE)


def train_all(run: Recipe, analysis: Analysis | None) -> dict[str, Trained]:
    """Stages 1 and 2 of a run, by name: extended and replayed. Nothing for method none."""
    if run.method.positions is None:
        return {}
    extended = run.extend(run.stage_one_set(analysis))
    return {"extended": extended, "replayed": run.replay(extended, analysis)}


def replay_as_in_paper(run: Recipe, trained: Mapping[str, Trained], analysis: Analysis | None) -> dict[str, Trained]:
    """Stage 2 with the paper's settings, from the same extended model: short text only, and no KL term.

    Nothing if no stage was trained, if the run has the paper's settings, or if its eval_stages leave this model out.
    """
    paper, wanted = _as_in_paper(run), run.params.eval_stages or [AS_IN_PAPER]
    if not trained or paper.params == run.params or AS_IN_PAPER not in wanted:
        return {}
    return {SHORT_ONLY: paper.replay(trained["extended"], analysis)}


def measure_all(run: Recipe, trained: Mapping[str, Trained]) -> dict[str, Report]:
    """Measure the models of a run, one after the other: base, RoPE rule alone, extended, replayed, merged, and the
    paper's setting, as far as they were trained.

    eval_stages of the run chooses some of them; all are measured if none of those exists. At scale mini, all models are
    measured at all lengths. A larger base is not asked beyond its window, where it fails and reading takes longest.
    """
    models, reach = measured_models(run, trained), {} if run.params.scale == "mini" else {"base": run.params.window}
    return {
        name: run.measure(make(), share=_SHARES.get(name, 1), longest=reach.get(name)) for name, make in models.items()
    }


def measure_steps(run: Recipe, trained: Mapping[str, Trained]) -> dict[str, Report]:
    """Measure stage 1 after each of the run's eval_steps, at the window and the target, by the names `step 10`.

    Each is measured on two documents in five. Nothing if the run has no eval_steps, or if it trains nothing.
    """
    p, steps = run.params, (run.params.eval_steps or ()) if "extended" in trained else ()
    lengths = [p.window, p.target_length]
    return {
        f"step {step}": run.measure(run.at_step(trained["extended"], step), share=_SHARE, lengths=lengths)
        for step in steps
    }


def export_checked(run: Recipe, trained: Mapping[str, Trained], numbers: Mapping[str, Mapping]) -> pd.DataFrame:
    """Export the merged model, load it with plain transformers in a fresh process, and tell what that found.

    numbers: `Report.numbers()` by stage, for the model card. Raises RuntimeError if the exported model differs from
    the measured one by more than rounding (see `check_export`).
    """
    if not trained:
        return _facts({"folder": "none: this method trains no model"})
    folder = run.export(trained["replayed"], numbers)
    prompt = run.tokenizer.decode(run.shown(1)[0].ids[:200])
    found = check_export(folder, run.merge(trained["replayed"]), run.tokenizer, prompt=prompt)
    return _facts(
        {
            "folder": folder.name,
            "architecture": found.architecture,
            "window": f"{found.window:,} tokens",
            "tokenizer is read by": found.tokenizer,
            "logits in a fresh process differ by at most": f"{found.difference:.1e}",
            "rounding to the base's dtype changes them by": f"{found.rounding:.1e}",
            "continues a text with": repr(found.said[:40]),
        }
    )


def ranking_of(run: Recipe, analysis: Analysis | None) -> pd.DataFrame:
    """The token types of an analysis by falling lift, and which of them are anchors; no rows without an analysis."""
    columns = ["anchor", "tokens", "share of all", "share of top", "lift", "95 % interval", "mean shift"]
    if analysis is None:
        return pd.DataFrame(columns=columns).rename_axis("type")
    anchors = run.anchors(analysis)
    rows = {
        each.type: (
            "anchor" if each.type in anchors else "",
            each.count,
            f"{each.share_of_all:.1%}",
            f"{each.share_of_top:.1%}",
            number(each.lift, 2),
            interval((each.lift, each.lift_low, each.lift_high), 2),
            number(each.mean_shift, 2),
        )
        for each in analysis.ranking.itertuples(index=False, name="Ranked")
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("type")


def shown_rows(run: Recipe, analysis: Analysis | None, count: int) -> list[dict]:
    """The first samples of the stage-1 set; for method none, which has no such set, samples of the run's length."""
    if run.method.positions is None:
        return [{"key": key} | row for key, row in enumerate(rows_of(run.shown(count)))]
    dataset = run.stage_one_set(analysis)
    return list(dataset.select(range(min(count, len(dataset)))))


def one_sentence(run: Recipe, row: Mapping, anchors: list[str], *, most: int = 12) -> pd.DataFrame:
    """What the recipe does with one sentence of a sample: a row for each token, and for the tokens next to it.

    Columns: sentence; token; anchor; its place in the document and in the sample; its position id, as the collator
    draws it in the first epoch; and the token that the model learns to predict there.

    Args:
        row: of the stage-1 set.
        most: the length of the sentence in tokens, at most. The first sentence with an anchor is shown, after the
            first one of the sample, which always keeps its positions; else the shortest.
    """
    ids, lengths = (np.asarray(row[name]) for name in ("input_ids", "segment_lengths"))
    first = np.cumsum(lengths) - lengths
    is_anchor = run.types.mask(ids, anchors) if anchors else np.zeros(len(ids), dtype=bool)
    has_anchor = np.logical_or.reduceat(is_anchor, first)
    fits = [i for i in range(1, len(lengths)) if has_anchor[i] and 4 <= lengths[i] <= most]
    which = fits[0] if fits else int(lengths.argmin())
    places = np.arange(max(first[which] - 1, 0), min(first[which] + lengths[which] + 1, len(ids)))
    sentence = np.searchsorted(first, places, side="right") - 1
    strings = token_strings(run.tokenizer)
    texts = [repr(strings[i]) for i in ids]
    names = {which - 1: "the one before", which: "this one", which + 1: "the one after"}
    return pd.DataFrame(
        {
            "sentence": [names[i] for i in sentence],
            "token": [texts[i] for i in places],
            "anchor": np.where(is_anchor[places], "anchor", ""),
            "place in the document": np.asarray(row["segment_starts"])[sentence] + places - first[sentence],
            "place in the sample": places,
            "position id": run.collator().positions(dict(row))[places],
            "learns to predict": [texts[i + 1] if i + 1 < len(ids) else "" for i in places],
        }
    )


def weights_by_type(run: Recipe, analysis: Analysis | None, n_documents: int = 16) -> pd.DataFrame:
    """The mean loss weight of each type of token in stage-1 samples, by every scheme with its default strength.

    Columns: share of all tokens, and the schemes of `data.weights.SCHEMES`. With planted facts, their numbers are two
    types of their own: those of new facts, which no model can predict, and those that repeat an earlier one. No rows
    for method none.
    """
    shares, means = None, {}
    if run.method.positions is None:
        return pd.DataFrame(columns=["share of all tokens", *SCHEMES]).rename_axis("type")
    types = fact_types(run)
    for scheme in SCHEMES:
        batch = min(run.params.extend_batch_size, n_documents)
        other = run.varied(
            loss_weight=scheme, loss_weight_strength=None, n_documents=n_documents, extend_batch_size=batch
        )
        rows = other.stage_one_set(analysis or other.analyse()).with_format("numpy")
        of = np.concatenate([types.of(ids)[1:] for ids in rows["input_ids"]])
        weights = np.concatenate([each[1:] for each in rows[WEIGHTS]])
        counts = np.bincount(of, minlength=len(types.names))
        sums = np.bincount(of, weights=weights, minlength=len(types.names))
        means[scheme] = pd.Series(sums, index=types.names)[counts > 0] / counts[counts > 0]
        shares = pd.Series(counts, index=types.names)[counts > 0] / counts.sum()
    table = pd.DataFrame({"share of all tokens": shares} | means)
    return table.sort_values("share of all tokens", ascending=False).rename_axis("type")


def fact_types(run: Recipe) -> TokenTypes:
    """Types of tokens by class, and with planted facts also by their place in them."""
    facts = run.text.facts
    return types_by_class(run.tokenizer) if facts is None else types_by_fact(run.tokenizer, facts)


def _as_in_paper(run: Recipe) -> Recipe:
    return run.varied(**{name: STATED[name][0] for name in REPLAY_AND_MERGE})


def models_of(run: Recipe, trained: Mapping[str, Trained]) -> dict[str, Callable[[], PreTrainedModel]]:
    """How each model of a run is made or loaded, by name."""
    models = {"base": run.base, "RoPE rule alone": run.raised}
    models |= {name: trained[name].load for name in ("extended", "replayed") if name in trained}
    if "replayed" in trained:
        models["merged"] = functools.partial(run.merge, trained["replayed"])
    if SHORT_ONLY in trained:
        models[AS_IN_PAPER] = functools.partial(_as_in_paper(run).merge, trained[SHORT_ONLY])
    return models


def measured_models(run: Recipe, trained: Mapping[str, Trained]) -> dict[str, Callable[[], PreTrainedModel]]:
    """How each model that the run's eval_stages choose is made or loaded, by name."""
    models = models_of(run, trained)
    return {name: models[name] for name in chosen_by(run.params, models)}


def chosen_by(p: Params, names: Iterable[str]) -> list[str]:
    """The names of models that eval_stages chooses; all if it chooses none of them."""
    names = list(names)
    return [name for name in names if name in (p.eval_stages or names)] or names


def _facts(values: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"found": values}).rename_axis("exported model")
