"""What the models of a run predict on its long held-out documents: loss by position, and LongPPL."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from transformers import PreTrainedModel

from longrecipe import evaluate, tokens
from longrecipe.claims import Claim, at_most, interval, number
from longrecipe.recipe import cache, draws
from longrecipe.recipe.disk import reports_full_disk
from longrecipe.recipe.stages import Recipe
from longrecipe.recipe.whole import fact_types, measured_models, models_of
from longrecipe.system.files import locked, new_file
from longrecipe.train import Trained


@dataclass(frozen=True)
class HeldOut:
    """The losses of the models of a run on its held-out documents, from `read_held_out`.

    ids int64 [D, T]; losses float32 [D, T - 1] of the tokens 1..T-1, by model; chosen bool [D, T - 1], the tokens that
    LongPPL counts. There may be no documents (D = 0), and then all tables are empty.
    """

    run: Recipe
    ids: np.ndarray
    losses: Mapping[str, np.ndarray]
    chosen: np.ndarray

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """The mean loss of every model by document and bin of positions, see `evaluate.losses_by_document`."""
        return evaluate.losses_by_document(self.losses, _edges(self.run, self.ids), self.chosen)

    def by_position(self) -> pd.DataFrame:
        """The mean loss of every model in bins of positions, see `evaluate.loss_by_position`."""
        return evaluate.loss_by_position(self.table, seed=self.run.params.seed)

    def longppl(self) -> pd.DataFrame:
        """LongPPL and perplexity of every model, see `evaluate.longppl`."""
        rows = {}
        for name, losses in self.losses.items():
            found = evaluate.long_perplexity(losses, self.chosen)
            rows[name] = (number(found.longppl[0], 2), interval(found.longppl, 2), number(found.perplexity, 2))
        columns = ["LongPPL", "95 % interval", "perplexity"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("model")

    def chosen_types(self) -> pd.DataFrame:
        """The types of the tokens that LongPPL counts, the most frequent first, and all types together: by class, and
        with planted facts also by their place in them."""
        types, cells = fact_types(self.run), {}
        of = np.array([types.of(each)[1:] for each in self.ids], dtype=np.int64).reshape(self.chosen.shape)
        hits, counts = (np.bincount(each.ravel(), minlength=len(types.names)) for each in (of[self.chosen], of))
        order = [i for i in np.argsort(-hits, kind="stable") if hits[i]]
        rows = {types.names[i]: (hits[i], counts[i]) for i in order} | {"all": (self.chosen.sum(), self.chosen.size)}
        for name, (hit, count) in rows.items() if self.chosen.size else ():
            total, size = rows["all"]
            share = f"{hit / total:.1%}" if total else ""
            cells[name] = f"{hit:,}", share, f"{count / size:.1%}", f"{hit / count:.1%}"
        columns = ["chosen tokens", "share of the chosen", "share of all tokens", "of its tokens chosen"]
        return pd.DataFrame.from_dict(cells, orient="index", columns=columns).rename_axis("type")

    def claims(self) -> list[Claim]:
        """Whether training lowers the loss beyond the window, compared with the RoPE rule alone: on all tokens, and on
        those that need long context. None if one of both models was not measured."""
        if not {"merged", "RoPE rule alone"} <= self.losses.keys():
            return []
        window, found = self.run.params.window, []
        for of, tokens_of in (("", evaluate.ALL), (" of tokens that need long context", evaluate.LONG_CONTEXT)):
            apart = evaluate.loss_difference(
                self.table, "merged", "RoPE rule alone", window, tokens=tokens_of, seed=self.run.params.seed
            )
            text = f"merged: training lowers the loss{of} from {window} to {self.ids.shape[1]} tokens"
            words = "" if np.isnan(apart[0]) else f"{number(apart[0], 3)} nats from the RoPE rule alone"
            found.append(Claim(text, at_most(apart, 0), words, interval(apart, 3), main=not of))
        return found


def read_held_out(
    run: Recipe, trained: Mapping[str, Trained], *, evaluator: str | None = None, context: int | None = None
) -> HeldOut:
    """Read the held-out documents of a run (eval_longppl of them) with each of its models, once.

    One model, the evaluator, chooses the tokens that LongPPL counts for all models. Its own LongPPL is too low, because
    it has a loss below 2 at all of them, and so may be that of models that come from it. The authors take one strong
    model for all. There is no such model for every tokenizer, so the default is the extended model, which the replayed
    and the merged model come from; without training it is the RoPE rule alone. Another evaluator shows how much the
    choice matters.

    Args:
        evaluator: the name of a model of the run, as in `measure_all`.
        context: tokens of the short context; None takes `tokens.short_context`, so that the windows that are read for
            it are no longer than the base's.

    There are no documents if eval_longppl is 0, or if the held-out text is shorter than two short contexts. Raises
    ValueError for an unknown evaluator.
    """
    p, every = run.params, models_of(run, trained)
    evaluator = evaluator or ("extended" if "extended" in every else "RoPE rule alone")
    if evaluator not in every:
        raise ValueError(f"evaluator = {evaluator!r}: this run has the models {', '.join(every)}.")
    context = tokens.short_context(p.window) if context is None else context
    ids, models = _documents(run), measured_models(run, trained)
    if ids.shape[1] < 2 * context:
        return HeldOut(run, ids[:0, :1], {}, np.zeros((0, 0), dtype=bool))
    read, chosen = _choice(run, every[evaluator], ids, context)
    losses = {evaluator: read} | _losses(run, ids, {name: make for name, make in models.items() if name != evaluator})
    return HeldOut(run, ids, {name: losses[name] for name in models}, chosen)


def read_losses(
    run: Recipe, models: Mapping[str, Callable[[], PreTrainedModel]], chosen: np.ndarray | None = None
) -> pd.DataFrame:
    """Read the held-out documents of a run with some models, by how they are made or loaded.

    Args:
        chosen: bool [D, T - 1], the tokens that need long context, such as `key_tokens`; None for none.

    Returns `evaluate.losses_by_document`; no rows if there are no documents.
    """
    ids = _documents(run)
    return evaluate.losses_by_document(_losses(run, ids, models) if len(ids) else {}, _edges(run, ids), chosen)


@reports_full_disk
def key_tokens(run: Recipe) -> np.ndarray | None:
    """The held-out tokens that LongPPL counts, chosen by the RoPE rule alone and kept in the cache.

    The choice does not depend on method or seed, so runs can be compared. It favours the RoPE rule alone, see
    `read_held_out`. Returns bool [D, T - 1]; None if the documents are shorter than two short contexts.
    """
    p, ids = run.params, _documents(run)
    context = tokens.short_context(p.window)
    if ids.shape[1] < 2 * context:
        return None
    path = cache.key_tokens_file(p, ids)
    with locked(path, "chooses the tokens that LongPPL counts"):
        if not path.is_file():
            _, chosen = _choice(run, run.raised, ids, context)
            with new_file(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, chosen)
        return np.load(path)


def _choice(
    run: Recipe, make: Callable[[], PreTrainedModel], ids: np.ndarray, context: int
) -> tuple[np.ndarray, np.ndarray]:
    """The losses of a model on documents, float32 [D, T - 1], and the tokens that it chooses for LongPPL, bool."""
    network = evaluate.to_read(make(), run.params.eval_precision)
    losses = tokens.token_losses(network, ids)
    return losses, evaluate.key_tokens(losses, tokens.short_context_losses(network, ids, context))


def _documents(run: Recipe) -> np.ndarray:
    """The held-out documents, ids int64 [D, T]; [0, 1] if there are none."""
    documents = draws.held_out_documents(run.params, run.text, run.params.eval_longppl)
    return np.stack(documents) if documents else np.zeros((0, 1), dtype=np.int64)


def _edges(run: Recipe, ids: np.ndarray) -> list[int]:
    return evaluate.position_edges(run.params.window, ids.shape[1])


def _losses(run: Recipe, ids: np.ndarray, models: Mapping[str, Callable[[], PreTrainedModel]]) -> dict[str, np.ndarray]:
    precision = run.params.eval_precision
    return {name: tokens.token_losses(evaluate.to_read(make(), precision), ids) for name, make in models.items()}
