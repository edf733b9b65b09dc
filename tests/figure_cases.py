"""A small example of every public figure function, by name: those of experiments from the committed results."""

import functools

import numpy as np
import pandas as pd
from runs import made_real_run

from longrecipe import evaluate, plots, positions
from longrecipe.cost import question, record
from longrecipe.evaluate import Report
from longrecipe.experiments import (
    factors,
    figure2,
    fronts,
    growth,
    real,
    scores,
    table1,
    table2,
    table3,
    table4,
    weights,
)
from longrecipe.experiments.paired import Paired
from longrecipe.families import FAMILIES
from longrecipe.positions import METHODS
from longrecipe.tokens import Kept, Scored, TokenTypes, rank
from longrecipe.train import Trained

WINDOW, TARGET = 256, 4096
STAGES = ("base", "H'", "RoPE rule alone", "extended", "replayed", "merged")


def rng():
    return np.random.default_rng(0)


# token analysis


@functools.cache
def analysis():
    names = ("NUM", "NOUN", "VERB", "PROPN", "ADJ", "DET")
    types = TokenTypes("pos", names, lambda ids: np.minimum(ids, len(names) - 1))
    scored = []
    for key in range(12):
        ids = rng().integers(0, 12, size=2000)
        shift = rng().normal(size=1999).astype(np.float32) + 3 * (ids[1:] == 0)
        scored.append(Scored(str(key), ids, np.zeros(1999, np.float32), shift))
    return rank(scored, types)


def loss_by_position():
    edges = [0, 64, 128, 256, 512, 1024]
    losses = {"base": rng().normal(3, 1, size=(6, 1023)) + np.arange(1023) / 500, "merged": np.ones((6, 1023)) * 2.5}
    return plots.loss_by_position(evaluate.loss_by_position(evaluate.losses_by_document(losses, edges)), 256)


def mean_weights():
    table = pd.DataFrame({"share of all tokens": [0.5, 0.45, 0.05], "anchor": [0.7, 0.7, 6.4], "helm": [0.8, 1.1, 2.3]})
    return plots.mean_weights(table.set_axis(["word part", "punctuation", "number"]))


def passage():
    pieces = [
        " The",
        " harbour",
        " of",
        " the",
        " old",
        " town",
        " has",
        " 42",
        " boats",
        ".\n",
        " gate",
        " 17",
        ".",
    ] * 12
    numbers = [piece.strip().isdigit() for piece in pieces]
    return plots.passage(pieces, rng().normal(size=len(pieces)) * 3, threshold=2.0, is_number=numbers)


def token_shift():
    return plots.token_shift(analysis(), ["NUM"])


def position_shares():
    types = ["NUM", "NOUN", "VERB", "PROPN"]
    quoted = plots.quoted_shares(
        "paper, quoted", pd.Series(dict(zip(types, (0.4, 0.2, 0.1, 0.05), strict=True))), first=40, last=2000, window=50
    )
    measured = plots.measured_shares("mini, measured", analysis(), WINDOW, runs=[])
    return plots.position_shares([quoted, measured, plots.measured_shares("SmolLM2", None, 50, runs=[])], types)


def selections():
    places = np.sort(rng().choice(4000, 90, replace=False))
    starts = np.arange(0, 4000, 400)
    kept = {
        name: Kept(4096, places, starts + shift, np.full(len(starts), 120))
        for name, shift in (("anchored", 40), ("random", 90), ("first", 0))
    }
    return plots.selections(kept)


# positions


@functools.cache
def samples(n=16):
    sample = {"segment_lengths": [12] * 102, "segment_starts": np.arange(102) * 40}
    trained = {name: method for name, method in METHODS.items() if method.positions}
    whole = {"segment_lengths": [TARGET], "segment_starts": [0]}
    return {
        name: [method.draw(whole if name == "flt" else sample, TARGET, np.random.default_rng(i)) for i in range(n)]
        for name, method in trained.items()
    }


def placements():
    rows = {f"sample {i + 1}": positions.longrecipe([5, 4, 6], 40, np.random.default_rng(i)) for i in range(3)}
    return plots.placements([5, 4, 6], rows, 40)


def position_maps():
    return plots.position_maps(samples(), TARGET)


def position_map():
    return plots.position_map(samples()["longrecipe"], TARGET, WINDOW)


def distances():
    return plots.distances(samples(), TARGET)


def figure_3():
    targets = pd.Series([2560, 4096, 8192], name="target")
    measured = pd.DataFrame({"target": targets, "longrecipe": targets / 3, "rpes": targets / 3.02, "pose": targets / 6})
    return plots.figure_3(measured, measured * [1, 0.99, 1.01, 0.8])


# models and training


def pretraining():
    pairs = pd.DataFrame({"phase": "A", "pairs": np.repeat([2, 4, 8], 50), "accuracy": np.linspace(0, 1, 150)})
    text = pd.DataFrame({"phase": "B", "length": np.repeat([128, 256], 50), "loss": np.linspace(5, 3, 100)})
    return plots.pretraining(pd.concat([pairs, text], ignore_index=True))


def wavelengths():
    return plots.wavelengths(FAMILIES["llama3"].mini_config(), TARGET)


def losses():
    stages = {name: np.linspace(4, 3, 90) + 0.1 * rng().normal(size=90) for name in ("extended", "replayed")}
    return plots.losses({name: Trained(name, None, list(each), 1.0, 90_000, None) for name, each in stages.items()})


def recall_heatmaps():
    rows = [
        ("multi-key", length, i, depth, float(depth > 0.5))
        for length in (256, 1024, 2048, 4096)
        for i, depth in enumerate(np.linspace(0, 1, 20))
    ]
    made = Report(pd.DataFrame(rows, columns=["task", "length", "document", "depth", "score"]), {})
    return plots.recall_heatmaps(dict.fromkeys(STAGES, made))


@functools.cache
def numbers():
    spread = {"mean": 0.5, "low": 0.4, "high": 0.6, "prompts": 8}
    stage = {
        "tasks": {n: {"passkey": spread, "multi-key": spread} for n in (256, 1024, 2048, 4096)},
        "perplexity": 20.0,
    }
    stage |= {name: {256: spread, 1024: spread, 4096: spread} for name in ("recall", "niah_m")}
    return dict.fromkeys(STAGES, stage)


def passkeys():
    return plots.passkeys(numbers(), WINDOW)


def to_the_window(which):
    """Figures of a base that was not measured beyond its window: what is missing is not drawn."""
    base = {name: {n: each for n, each in cells.items() if n <= WINDOW} for name, cells in _cells().items()}
    found = {"base": base | {"perplexity": 20.0}, "RoPE rule alone": numbers()["merged"], "merged": numbers()["merged"]}
    if which != "recall_heatmaps":
        return getattr(plots, which)(found, *[WINDOW] * (which == "passkeys"))
    rows = [("multi-key", n, 0, depth, 1.0) for n in (256, 1024, 4096) for depth in (0.1, 0.9)]
    prompts = pd.DataFrame(rows, columns=["task", "length", "document", "depth", "score"])
    inside = Report(prompts[prompts["length"] <= WINDOW], {})
    return plots.recall_heatmaps({"base": inside, "merged": Report(prompts, {})})


def _cells():
    return {name: numbers()["base"][name] for name in ("tasks", "recall", "niah_m")}


def nothing():
    return plots.nothing("No losses to draw: this run has trained nothing.")


def retention():
    return plots.retention(numbers())


# the paper's tables and figures, from the committed results


@functools.cache
def methods():
    grid = table1.EXPERIMENT.grid("llama3")
    return grid, scores.scores(grid)


def table1_figure():
    _, rows = methods()
    table = scores.over_seeds(scores.final(rows), ["target", "name"], ["NIAH(M)"])
    titles = {f"T = {target}, {target / WINDOW:g} windows": target for target in (2560, 4096)}
    quoted = {title: table1.paper("llama3", target / WINDOW)["niah_m"] for title, target in titles.items()}
    return table1.figure({title: table.loc[target] for title, target in titles.items()}, quoted)


def table1_depth_figure():
    grid, _ = methods()
    return table1.depth_figure(scores.depths([p for p in grid if p.target_length == TARGET]))


def table3_figure():
    _, rows = methods()
    rows = table3.trained(rows[rows["target"] == TARGET])
    return table3.figure(scores.over_seeds(rows, ["name", "stage"], table3.COLUMNS))


@functools.cache
def merges():
    bases = [p for p in methods()[0] if p.method == "none" and p.target_length == TARGET]
    return scores.front_scores(fronts.EXPERIMENT.grid(), bases)


def fronts_figure():
    return fronts.figure(fronts.means(merges()))


@functools.cache
def by_ratio():
    parts, shares = table2.EXPERIMENT.grid(), figure2.EXPERIMENT.grid()
    rows = scores.final(scores.scores([*shares, *(p for p in parts if p.method == "none")]))
    taken = record.step_shares(record.record_of("mini"), "llama3", TARGET)
    rows["seconds"] = rows["ratio"].map(taken)
    return rows, scores.final(scores.scores(parts)).assign(seconds=lambda some: some["ratio"].map(taken))


def table2_figure():
    parts = {"parts of the recipe": scores.over_seeds(by_ratio()[1], ["name"], ["NIAH(M)"])}
    return table1.figure(parts, {"parts of the recipe": table2.paper()["niah_m"]})


def figure2_figure():
    return figure2.figure(figure2.lines(by_ratio()[0], ["NIAH(M)"]), figure2.paper())


def figure2_cost_figure():
    columns = ["NIAH(M)", "seconds"]
    others = scores.over_seeds(by_ratio()[1], ["name"], columns).loc[["PoSE", "RoPE rule alone"]]
    return figure2.cost_figure(others, figure2.lines(by_ratio()[0], columns), "seconds")


def weights_figure():
    return weights.figure(weights.table(weights.compared("llama3", TARGET)))


@functools.cache
def growing():
    """The RoPE rule alone, and three numbers of samples."""
    runs = [made_real_run((2.1, 3.0), 0.25, 11.0, method="none")]
    for steps, loss in ((6, 2.9), (24, 2.8), (96, 2.75)):
        runs.append(made_real_run((2.0, loss), 0.5, 10.2, spread=2e-4 * steps, method="longrecipe", extend_steps=steps))
    return runs


def real_figure():
    return real.figure(Paired(tuple((real.label(run.params), run) for run in growing())))


def real_by_position_figure():
    base = made_real_run((2.0, 9.0), 0.0, 10.0, spread=0.02, method="none", rope_factor=1.0)
    return real.by_position_figure(Paired(tuple((real.label(run.params), run) for run in [base, *growing()])))


def growth_figure():
    return growth.figure(Paired(tuple((growth.label(run.params), run) for run in growing())))


def factors_figure():
    runs = [made_real_run((2.0, 9 / f), 0.1 * f, 10 + f, spread=0.02, method="none", rope_factor=f) for f in (1, 2, 4)]
    return factors.figure(Paired(tuple((factors.label(run.params), run) for run in runs)))


# resources


@functools.cache
def asked():
    return question.Question(
        model="llama3",
        scale="paper",
        method="longrecipe",
        target_length=131072,
        ratio=0.3,
        gpu="H100 80 GB",
        host_gb=100,
        price_per_gpu_hour=2,
        tokens_millions=384,
    )


def table4_memory_parts():
    cards = {name: device.memory_bytes / 1e9 for name, device in table4.CARDS.items()}
    return table4.memory_parts(table4.memory(asked()), cards)


def table4_cost_by_length():
    lengths = {name: table4.by_length(asked(), name) for name in asked().families}
    return table4.cost_by_length(lengths["llama3"], lengths, 131072, gpu="H100 80 GB")


def table4_flop_parts():
    return table4.flop_parts(table4.by_length(asked()))


def table4_longest_samples():
    return table4.longest_samples(table4.longest(asked(), gpu_gb=85), 131072, asked().short)


def table4_price():
    return table4.price(table4.prices(asked()), 2.5)


def table4_step_times():
    steps = table4.mini_steps(record.record_of("mini"))
    return table4.step_times(steps, table4.mini_ratios(steps))


# Figure functions by their names, those of experiments with the name of their module.
CASES = {
    f"plots.{case.__name__}": case
    for case in (
        passage,
        token_shift,
        position_shares,
        selections,
        placements,
        position_maps,
        position_map,
        distances,
        figure_3,
        pretraining,
        wavelengths,
        losses,
        recall_heatmaps,
        passkeys,
        nothing,
        retention,
        mean_weights,
        loss_by_position,
    )
} | {
    case.__name__.replace("_", ".", 1): case
    for case in (
        table1_figure,
        table1_depth_figure,
        table3_figure,
        fronts_figure,
        figure2_figure,
        figure2_cost_figure,
        weights_figure,
        real_figure,
        real_by_position_figure,
        growth_figure,
        factors_figure,
        table4_memory_parts,
        table4_cost_by_length,
        table4_flop_parts,
        table4_longest_samples,
        table4_price,
        table4_step_times,
    )
}
# Other uses of functions, which are checked as well.
CASES["table2, by table1.figure"] = table2_figure
CASES |= {
    f"a base to its window, by plots.{name}": functools.partial(to_the_window, name)
    for name in ("recall_heatmaps", "passkeys", "retention")
}
