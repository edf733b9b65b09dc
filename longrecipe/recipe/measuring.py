"""How a run measures a model: on its held-out text, with its settings, in its wording."""

import hashlib
import json
from collections.abc import Collection

import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from longrecipe import evaluate, tokens
from longrecipe.models import autocast_dtype, device_kind
from longrecipe.recipe import cache
from longrecipe.recipe.run_text import RunText
from longrecipe.settings import Params
from longrecipe.system.files import locked, read_json, write_json

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
    """Measure a model as a run does (see `Recipe.measure`); wording, from `wording_of`.

    The report is kept in the cache, so that a run that was stopped does not measure a model again.
    """
    held_out = np.asarray(text.long.held_out[: max(MOST_HELD_OUT, 8 * p.target_length)], dtype=np.int64)
    asked = {
        "lengths": lengths or p.measured_lengths,
        "n_documents": p.eval_documents,
        "n_facts": p.eval_facts,
        "seed": p.seed,
        "others": sorted(others),
        "share": share,
        "n_passkeys": 0 if lengths else p.eval_passkeys,
        "longest": longest,
    }
    precision = str(autocast_dtype(p.eval_precision, device_kind()))
    words = [wording.kind, *wording.keys, *wording.values, *wording.changed.values()]
    model = [tokens.fingerprint(network), network.config.to_json_string()]
    made_from = json.dumps([model, asked, p.eval_haystack, precision, device_kind(), words])
    path = cache.report_file(hashlib.sha256(made_from.encode() + held_out.tobytes()).hexdigest())
    with locked(path, "measures the same model"):
        if not path.is_file():
            haystack = wording.encode(evaluate.NOISE) if p.eval_haystack == "noise" else None
            read = evaluate.to_read(network, p.eval_precision)
            found = evaluate.report(read, held_out, wording, **asked, haystack=haystack)
            write_json(path, {"prompts": found.prompts.to_dict("list"), "general": found.general})
        kept = read_json(path, "delete it, and the model is measured again")
    return evaluate.Report(pd.DataFrame(kept["prompts"]), kept["general"])


def wording_of(p: Params, text: RunText, tokenizer: PreTrainedTokenizerBase) -> evaluate.Wording:
    """The wording of the tasks for a run: planted facts of the mini models, or sentences."""
    return evaluate.sentences(tokenizer) if text.facts is None else evaluate.planted(tokenizer, p.fact_values)
