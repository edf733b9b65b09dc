"""The experiment on a real model: what a run measures, and its table and claims from runs made by hand."""

import numpy as np
import pandas as pd
import pytest
from runs import SHORT

from longrecipe import evaluate, recipe, results, settings
from longrecipe.experiments import EXPERIMENTS, real
from longrecipe.results.run import typed

# Loss of every document inside the window and beyond it; what the documents have in common cancels in differences.
LOSSES = {"RoPE rule alone": (2.1, 3.0), "none": (2.05, 2.9), "anchor": (2.0, 2.8)}
RECALL = {"RoPE rule alone": 0.25, "none": 0.5, "anchor": 0.5}
PERPLEXITY = {"base": 10.0, "RoPE rule alone": 11.0, "none": 10.2, "anchor": 10.4}
# How much they differ between documents, whose mean is the number above.
SPREAD = {"RoPE rule alone": 0.0, "none": 0.01, "anchor": 0.02}
PLAIN, ANCHOR = "LongRecipe, 12 samples", "LongRecipe, 12 samples, anchor 9"


def made(stages, **changes):
    """A run of the experiment whose models have the numbers above; stages: the name of each model's numbers."""
    p = settings.load("smollm2", **real.DEFAULTS | changes)
    rng, rows, said = np.random.default_rng(0), [], []
    for document in range(6):
        level = rng.normal()
        for stage, name in stages.items():
            spread = SPREAD.get(name, 0.0) * (document - 2.5)
            if stage == "base":  # which is only measured on short text
                continue
            for (start, end), loss in zip(((0, 8192), (8192, 16384)), LOSSES[name], strict=True):
                rows.append((stage, "all", document, start, end, end - max(start, 1), loss + level + spread))
            said += [(stage, "multi-key", n, document, RECALL[name] + spread, 16) for n in (2048, 16384)]
    tables = {
        "losses": pd.DataFrame(rows, columns=list(results.TABLES["losses"])),
        "documents": pd.DataFrame(said, columns=list(results.TABLES["documents"])),
        "scores": pd.DataFrame(
            [
                {"stage": stage, "length": 2048, "task": "perplexity", "mean": PERPLEXITY[name]}
                for stage, name in stages.items()
            ]
        ).reindex(columns=list(results.TABLES["scores"])),
    }
    name = results.run_name(p, real.REAL)
    tables = {key: typed(table, key) for key, table in tables.items()}
    return results.Run(real.REAL, name, p.model_dump(), True, 1.0, "", {}, {}, [], tables)


@pytest.fixture
def three(monkeypatch):
    """The runs of the grid have finished."""
    runs = [made({"base": "base", "RoPE rule alone": "RoPE rule alone"}, method="none")]
    runs += [made({"merged": name}, method="longrecipe", loss_weight=name) for name in ("none", "anchor")]
    monkeypatch.setattr(real, "finished", lambda store: runs)


def test_models_are_compared_on_the_same_documents(three):
    table = real.table()
    assert table.index.tolist() == ["RoPE rule alone", PLAIN, ANCHOR]
    assert table["minus RoPE rule's"].str.split().str[0].tolist()[1:] == ["-0.100", "-0.200"]
    assert table["recall at T"].str.split().str[0].tolist() == ["25.0", "50.0", "50.0"]
    assert table["of the base's"].tolist() == ["110.0%", "102.0%", "104.0%"]
    verdicts = {claim.text: claim.verdict for claim in real.claims()}
    assert verdicts == {
        f"{PLAIN}: training lowers the loss beyond 8,192 tokens": "holds",
        f"{PLAIN}: recall at T is at least that of RoPE rule alone": "holds",
        f"{ANCHOR}: training lowers the loss beyond 8,192 tokens": "holds",
        f"{ANCHOR}: recall at T is at least that of RoPE rule alone": "holds",
        f"{ANCHOR}: weights lower the loss beyond 8,192 tokens": "holds",
        f"{ANCHOR}: recall at T is at least that of {PLAIN}": "not settled",
        f"{PLAIN}: perplexity is at most 3% above the base's": "holds",
        f"{ANCHOR}: perplexity is at most 3% above the base's": "does not hold",
    }
    title = real.figure(real.losses(), real.window_of_base()).get_label()
    assert f"-0.100 {PLAIN}, -0.200 {ANCHOR}" in title


def test_seeds_of_one_setting_are_averaged_by_document(three, monkeypatch):
    other = made({"merged": "anchor"}, method="longrecipe", seed=1)
    runs = [*real.finished(real.REAL), other]
    monkeypatch.setattr(real, "finished", lambda store: runs)
    assert real.table().loc[PLAIN, "minus RoPE rule's"].startswith("-0.150 [")


def test_nothing_is_compared_without_runs(monkeypatch):
    monkeypatch.setattr(real, "finished", lambda store: [])
    assert real.table().empty and not len(real.claims())
    assert "nothing to compare" in real.figure(real.losses(), real.window_of_base()).get_label()


def test_the_grid_has_one_seed_and_its_own_scale_and_text():
    grid = EXPERIMENTS["real"].grid()
    assert {(p.model, p.scale, p.text, p.seed, p.target_length) for p in grid} == {
        ("smollm2", "small", "long-text", 0, 16384)
    }
    other = EXPERIMENTS["real"].grid(seeds=[3], text="mine", profile=None, target_length=32768)
    assert {(p.text, p.seed, p.target_length) for p in other} == {("mine", 3, 32768)}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "longrecipe"])
def test_a_run_measures_losses_by_document_and_recall(method):
    p = settings.load("llama3", **SHORT | {"method": method, "eval_longppl": 2})
    found = EXPERIMENTS["real"].protocol.measure(recipe.prepare(p))
    stages = {"none": ["base", "RoPE rule alone"], "longrecipe": ["merged"]}[method]
    results.save(p, real.REAL, found.tables, seconds=1.0, full=found.full, anchors=found.anchors)
    run = results.load(p, real.REAL)
    losses = run.table("losses")
    assert list(losses["stage"].unique()) == stages[-1:] and list(run.table("documents")["stage"].unique()) == stages
    assert set(losses["tokens"]) == {evaluate.ALL} and set(losses["document"]) == {0, 1}
    assert losses.groupby("document")["count"].sum().eq(p.target_length - 1).all()
    scores = run.table("scores").query("task == 'multi-key'").set_index(["stage", "length"])["mean"]
    means = run.table("documents").query("task == 'multi-key'").groupby(["stage", "length"])["mean"].mean()
    assert means.to_dict() == pytest.approx(scores.to_dict())
