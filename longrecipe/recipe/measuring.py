"""How a run measures a model: on its held-out text, with its settings, in its wording."""

from collections.abc import Collection

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import evaluate
from longrecipe.recipe.run_text import RunText
from longrecipe.settings import Params

# Of much text, only the first held-out tokens are read, or eight documents of T tokens if these are more.
MOST_HELD_OUT = 1 << 20


def measure(
    network: PreTrainedModel,
    p: Params,
    text: RunText,
    *,
    wording: evaluate.Wording,
    share: float = 1.0,
    others: Collection[str] = (),
    lengths: list[int] | None = None,
    longest: int | None = None,
) -> evaluate.Report:
    """Measure a model as a run does (see `Recipe.measure`); wording, from `wording_of`."""
    held_out = text.long.held_out[: max(MOST_HELD_OUT, 8 * p.target_length)]
    return evaluate.report(
        evaluate.to_read(network, p.eval_precision),
        np.asarray(held_out, dtype=np.int64),
        wording,
        lengths=lengths or p.measured_lengths,
        n_documents=p.eval_documents,
        n_facts=p.eval_facts,
        seed=p.seed,
        others=others,
        share=share,
        n_passkeys=0 if lengths else p.eval_passkeys,
        longest=longest,
        haystack=wording.encode(evaluate.NOISE) if p.eval_haystack == "noise" else None,
    )


def wording_of(p: Params, text: RunText, tokenizer: PreTrainedTokenizerBase) -> evaluate.Wording:
    """The wording of the tasks for a run: planted facts of the mini models, or sentences."""
    return evaluate.sentences(tokenizer) if text.facts is None else evaluate.planted(tokenizer, p.fact_values)
