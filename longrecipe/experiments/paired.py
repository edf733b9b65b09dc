"""Runs of a real model that read the same held-out documents, so that their differences are paired by document.

Intervals are over documents: they say nothing about other seeds. Several seeds of one setting are averaged by document.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from longrecipe import evaluate, plots, recipe, results
from longrecipe.claims import Claim, at_least, at_most, difference, interval, number
from longrecipe.experiments import protocols
from longrecipe.experiments.protocols import Measured, Protocol
from longrecipe.results import Run
from longrecipe.settings import Params
from longrecipe.stats import Triple

REAL = "real"
BASE, RULE = "base", "RoPE rule alone"
NOT_MEASURED = "not measured"
# The largest perplexity of a trained model on short text, as a share of the base's.
MOST_PERPLEXITY = 1.03
# Long text that has to be fetched first, see docs/experiments.md; 8 facts are asked one by one about one reading.
# Needles are measured at the shortest length and T only.
DEFAULTS = {"scale": "small", "profile": "cpu", "text": "long-text", "eval_lengths": [2048, 12288]}
DEFAULTS |= {"eval_documents": 5, "eval_facts": 8, "eval_passkeys": 0, "eval_longppl": 6}


def measure(run: recipe.Recipe, *, full: bool = True) -> Measured:
    """Needles and perplexity at the shortest length and T, and the loss of held-out documents of T tokens by position.

    The run of method none measures the RoPE rule alone; the others, their merged model.

    Args:
        full: whether losses are also averaged over the tokens that LongPPL counts, which takes three more readings for
            the first run, and whether the run of method none also measures the base at the shortest length.
    """
    shortest, reports = run.params.measured_lengths[0], {}
    if run.method.positions is None:
        training, anchors, name, make = {}, [], RULE, run.raised
        if full:
            reports[BASE] = run.measure(run.base(), lengths=[shortest])
    else:
        training, anchors, stages = protocols.train(run)
        name, make = "merged", functools.partial(run.merge, stages["replayed"])
    reports[name] = run.measure(make(), lengths=[shortest, run.params.target_length])
    losses = results.loss_rows(recipe.read_losses(run, {name: make}, recipe.key_tokens(run) if full else None))
    tables = protocols.tables(reports) | {"losses": losses, "documents": results.document_rows(reports)} | training
    return Measured(tables, anchors, full=full)


FULL = Protocol(REAL, measure, readings=2.0)
LEAN = Protocol(REAL, functools.partial(measure, full=False), readings=2.0, full=False)


@dataclass(frozen=True)
class Paired:
    """The finished runs of a grid, by the name of their model. A full run of method none also measures the base.

    missing: the names of models whose runs have not finished.
    """

    runs: tuple[tuple[str, Run], ...]
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, grid: Iterable[Params], label: Callable[[Params], str]) -> "Paired":
        """The runs of a grid that have finished, in its order; label: names the model that a run measures."""
        found = [(label(p), results.find(p, REAL)) for p in dict.fromkeys(grid)]
        finished = [(name, run) for name, run in found if run is not None]
        missing = dict.fromkeys(name for name, _ in found if name not in dict(finished))
        return cls(tuple(finished), tuple(missing))

    def __bool__(self) -> bool:
        return bool(self.runs)

    @property
    def names(self) -> list[str]:
        """The models that were read at T, without repetition."""
        return list(dict.fromkeys(name for name, _ in self.runs))

    @property
    def trained(self) -> list[str]:
        """The models that were trained: all but the base and the RoPE rule alone."""
        return [name for name in self.names if name not in (BASE, RULE)]

    @property
    def window(self) -> int:
        """W, the window of the base, in tokens."""
        return self.runs[0][1].params.window

    @functools.cached_property
    def losses(self) -> pd.DataFrame:
        """The losses of all models, as `evaluate.losses_by_document`, the mean over seeds."""
        by = ["model", "tokens", "document", "start", "end", "count"]
        return self._joined("losses").groupby(by, sort=False, as_index=False)["loss"].mean()

    @functools.cached_property
    def recall(self) -> pd.DataFrame:
        """Multi-key recall at T in percent: a row for each document that was read, a column for each model."""
        rows = self._joined("documents")
        rows = rows[(rows["task"] == "multi-key") & (rows["length"] == rows["length"].max())]
        return 100 * rows.pivot_table("mean", ["seed", "document"], "model")

    @functools.cached_property
    def perplexity(self) -> pd.Series:
        """The perplexity of each model at the shortest length, the mean over seeds."""
        rows = self._joined("scores")
        return rows[rows["task"] == "perplexity"].groupby("model")["mean"].mean()

    def share(self, name: str) -> float:
        """The perplexity of a model as a share of the base's; NaN if no finished run has measured the base."""
        return self.perplexity[name] / self.perplexity.get(BASE, np.nan)

    def losses_of(self, name: str, *, beyond: bool) -> pd.Series:
        """The mean loss of a model by document, to the window or beyond it, in nats per token."""
        rows = self.losses[(self.losses["model"] == name) & (self.losses["tokens"] == evaluate.ALL)]
        rows = rows[rows["start"] >= self.window] if beyond else rows[rows["end"] <= self.window]
        sums = (rows["loss"] * rows["count"]).groupby(rows["document"]).sum()
        return sums / rows.groupby("document")["count"].sum()

    def apart(self, one: str, other: str) -> Triple:
        """How much higher the loss of one model is than that of another beyond the window, with its interval over
        documents, in nats."""
        return evaluate.loss_difference(self.losses, one, other, self.window)

    def recall_apart(self, one: str, other: str) -> Triple:
        """How many points the recall of one model is above that of another, with its interval over documents."""
        return over_documents(self.recall[one] - self.recall[other])

    def loss_claim(self, text: str, one: str, other: str) -> Claim:
        """Whether one model has a lower loss beyond the window than another."""
        apart = self.apart(one, other)
        return Claim(text, at_most(apart, 0), f"{number(apart[0], 3)} nats from {other}", interval(apart, 3))

    def recall_claim(self, text: str, one: str, other: str) -> Claim:
        """Whether the recall of one model at T is at least that of another."""
        points = self.recall_apart(one, other)
        words, limits = difference(points, other)
        return Claim(text, at_least(points, 0), words, limits)

    def table(self, against: str) -> pd.DataFrame:
        """A row for each model: its loss to the window and beyond it, minus that of a model, recall, and perplexity.

        Models whose runs have not finished are *not measured*.
        """
        rows = {name: self._row(name, against) for name in self.names} | {name: {} for name in self.missing}
        return pd.DataFrame.from_dict(rows, orient="index").fillna(NOT_MEASURED) if self else pd.DataFrame()

    def _row(self, name: str, against: str) -> dict[str, str]:
        said, share = over_documents(self.recall[name]), self.share(name)
        apart = "" if name == against or against not in self.names else with_interval(self.apart(name, against), 3)
        return {
            f"loss to {self.window:,}": number(self._mean(name, beyond=False), 3),
            "loss beyond": number(self._mean(name, beyond=True), 3),
            f"minus that of {against}": apart,
            "recall at T": with_interval(said),
            "perplexity": number(self.perplexity[name], 2),
            "of the base's": "" if np.isnan(share) else f"{share:.1%}",
        }

    def _mean(self, name: str, *, beyond: bool) -> float:
        return float(self.losses_of(name, beyond=beyond).mean())

    def _joined(self, table: str) -> pd.DataFrame:
        """A table of all runs, with columns model (`base`, or the name of a run's model) and seed."""
        frames = []
        for name, run in self.runs:
            rows = run.table(table)
            frames.append(rows.assign(model=rows["stage"].where(rows["stage"] == BASE, name), seed=run.params.seed))
        return pd.concat(frames, ignore_index=True)


def by_position_figure(found: Paired, names: Iterable[str] | None = None) -> Figure:
    """The loss by position of some models, or of all, with intervals over documents."""
    if not found:
        return plots.nothing("No run has finished, so there is nothing to compare.")
    losses = found.losses if names is None else found.losses[found.losses["model"].isin(list(names))]
    return plots.loss_by_position(evaluate.loss_by_position(losses), found.window)


def over_documents(values: pd.Series) -> Triple:
    """Mean and interval over documents; NaN without documents, and no interval for few, see
    `evaluate.over_documents`."""
    found = values.dropna().to_numpy()
    return evaluate.over_documents(found) if len(found) else (np.nan,) * 3


def with_interval(triple: Triple, digits: int = 1) -> str:
    """A mean with its interval as text, which is empty if there is no mean."""
    return "" if np.isnan(triple[0]) else f"{number(triple[0], digits)} {interval(triple, digits)}".strip()
