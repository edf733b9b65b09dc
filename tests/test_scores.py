"""The paper's tables from made-up runs, whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from runs import unpadded

from longrecipe import plots, results, settings
from longrecipe.experiments import figure2, fronts, scores, steps, table1, table2, table3
from longrecipe.experiments.summary import summary

TARGET, SEEDS = 4096, (0, 1, 2)
# NIAH(M) at the target by method; each seed adds its number in points.
LONG = {"flt": 0.8, "rpes": 0.6, "pose": 0.5, "longrecipe": 0.79}


def cell(mean):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "prompts": 200}


def numbers(niah, lengths, perplexity=20.0, recall=0.9, copying=0.4, single=True):
    tasks = {task: cell(niah) for task in ("multi-key", "multi-value", "multi-query")}
    if single:
        tasks |= {"single": cell(niah + 0.04)}
    return {
        "recall": {length: cell(recall) for length in lengths},
        "niah_m": {length: cell(niah) for length in lengths},
        "tasks": dict.fromkeys(lengths, tasks | {"multi-key": cell(recall)}),
        "perplexity": perplexity,
        "copying": copying,
        "first_copy": 0.3,
    }


def save(p, experiment=scores.GRID, full=True):
    plus, ends = 0.01 * p.seed, [p.window, p.target_length]
    saved = {}
    if p.method == "none":
        full = True
        stages = {
            "base": numbers(0.0, ends),
            "RoPE rule alone": numbers(0.3 + plus, ends, perplexity=25.0),
            "base, inside": numbers(0.7, [p.window]),
        }
    else:
        niah = LONG[p.method.split(":")[0]] - (0.1 if p.selection != "anchored" else 0) + plus
        niah -= 0.2 * ("max_gap" in p.method) + 0.5 * max(0, 0.3 - p.ratio)
        training = [
            ("extended", 200.0 if p.method == "flt" else 100 * p.ratio, 1000, 2e12),
            ("replayed", 10.0, 100, 1e12),
        ]
        if p.method == "longrecipe":
            training.append(("token analysis", 7.0, 10, 5e11))
        saved["training"] = pd.DataFrame(training, columns=["stage", "seconds", "n_tokens", "flops"])
        stages = {
            "extended": numbers(niah, ends, perplexity=30.0, recall=0.81),
            "replayed": numbers(niah, ends, perplexity=25.0),
            "merged": numbers(niah, ends, perplexity=20.0 / 0.98, single=full),
        }
    saved["scores"] = results.score_rows(stages)
    if experiment == scores.FRONT:
        cells = [("uniform", 0.0, niah), ("uniform", 0.5, niah - 0.2), ("spare_qk", 0.5, niah)]
        saved["scores"] = results.merge_rows((*merge, numbers(value, ends, single=False)) for *merge, value in cells)
    stage = "base" if p.method == "none" else "merged"
    saved["depths"] = pd.DataFrame(
        [("multi-key", TARGET, fifth, 0.5 + 0.1 * p.seed, 10 * (p.seed + 1), stage) for fifth in range(5)],
        columns=["task", "length", "depth", "mean", "count", "stage"],
    )
    return results.save(p, experiment, saved, seconds=1.0, full=full)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the paper's tables and the real params, but no runs."""
    from longrecipe.system.paths import root

    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(root() / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "paper").symlink_to(root() / "results" / "paper")
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path))
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def grid(root):
    grid = table1.EXPERIMENT.grid("llama3", seeds=SEEDS, targets=[TARGET])
    for p in grid:
        save(p)
    return grid


def test_scores_are_in_percent_of_the_base(grid):
    frame = scores.scores(grid).set_index(["name", "stage", "seed"])
    merged = frame.loc["LongRecipe", "merged", 1]
    assert merged["NIAH(M)"] == pytest.approx(80.0)
    assert merged["RULER-like"] == pytest.approx((90 + 80 + 80 + 84) / 4)
    assert merged["perplexity kept"] == pytest.approx(98.0)
    assert frame.loc["LongRecipe", "extended", 0]["short recall kept"] == pytest.approx(90.0)
    assert frame.loc["RoPE rule alone", "base, inside", 0]["NIAH(M)"] == pytest.approx(70.0)


def test_training_is_that_of_all_stages_before(grid):
    frame = scores.scores(grid).set_index(["name", "stage", "seed"])
    ours = [frame.loc["LongRecipe", stage, 0] for stage in ("extended", "replayed", "merged")]
    assert [row["training seconds"] for row in ours] == [37, 47, 47]
    assert [row["stage 1 seconds"] for row in ours] == [30, 30, 30]
    assert [row["analysis and stage 1 seconds"] for row in ours] == [37, 37, 37]
    assert [row["training TFLOP"] for row in ours] == [2.5, 3.5, 3.5]
    assert np.isnan(frame.loc["RoPE rule alone", "base", 0]["training seconds"])
    assert frame.loc["PoSE", "merged", 0]["training seconds"] == 40


def test_a_run_that_is_missing_is_named(grid, root):
    with pytest.raises(FileNotFoundError, match=r"seed3.* has not finished"):
        scores.scores(table1.EXPERIMENT.grid("llama3", seeds=[3], targets=[TARGET]))
    with pytest.raises(FileNotFoundError, match="run method none as well"):
        scores.scores([p for p in grid if p.method != "none"])


def test_the_table_of_methods_has_the_papers_order_and_intervals(grid):
    final = scores.final(scores.scores(grid))
    assert list(dict.fromkeys(final["name"])) == ["base", "RoPE rule alone", "FLT", "RPES", "PoSE", "LongRecipe"]
    table = scores.over_seeds(final, ["target", "name"], ["NIAH(M)", "recall"])
    row = table.loc[(TARGET, "PoSE"), "NIAH(M)"]
    # Seeds 0, 1, 2 give 50, 51, 52: standard deviation 1, t = 4.303.
    assert (row["mean"], row["low"]) == (pytest.approx(51.0), pytest.approx(51 - 4.302653 / 3**0.5))
    assert table.loc[(TARGET, "PoSE"), ("seeds", "number")] == 3
    assert scores.shown(table).loc[(TARGET, "PoSE"), "NIAH(M)"] == "51.0 ± 2.5"


def test_one_seed_has_no_interval_and_what_was_not_measured_is_empty():
    frame = pd.DataFrame({"name": ["a", "b"], "x": [1.0, float("nan")], "seed": [0, 0]})
    table = scores.over_seeds(frame, ["name"], ["x"])
    assert scores.shown(table)["x"].tolist() == ["1.0", ""]


@pytest.mark.slow
def test_runs_of_other_settings_are_no_further_seeds(grid):
    frame = pd.concat([scores.scores(grid), scores.scores(grid)], ignore_index=True)
    with pytest.raises(ValueError, match="several rows for a seed: group by more than name"):
        scores.over_seeds(scores.final(frame), ["name"], ["NIAH(M)"])
    before = summary()
    for p in table1.EXPERIMENT.grid("llama3", seeds=SEEDS, targets=[TARGET], replay_kl_weight=0.0):
        save(p)
    # Runs whose base has not been measured.
    for p in figure2.EXPERIMENT.grid(seeds=[7]):
        save(p)
    assert summary() == before


def test_depths_put_all_seeds_together(grid):
    depths = scores.depths(grid)
    assert set(depths["name"]) == {"FLT", "RPES", "PoSE", "LongRecipe"}
    # Means 0.5, 0.6, 0.7 of 10, 20, 30 prompts.
    assert depths["score"].to_numpy() == pytest.approx((0.5 * 10 + 0.6 * 20 + 0.7 * 30) / 60)


def test_variants_have_names_of_their_own(root):
    grid = table2.EXPERIMENT.grid(seeds=[0, 1])
    for p in grid:
        save(p, full=False)
    names = set(scores.final(scores.scores(grid))["name"])
    assert names == {
        "base",
        "RoPE rule alone",
        "PoSE",
        "LongRecipe",
        "LongRecipe, first tokens",
        "LongRecipe, random sentences",
        "contiguous",
        "contiguous, first tokens",
    }
    assert len({plots.colour(name) for name in names}) == len(names)


@pytest.mark.slow
def test_fronts_start_every_rule_at_the_replayed_model(grid):
    front = fronts.EXPERIMENT.grid(seeds=SEEDS)
    for p in front:
        save(p, scores.FRONT)
    frame = fronts.means(scores.front_scores(front, [p for p in grid if p.method == "none"]))
    usual = settings.load("llama3")
    replay = f"{usual.replay_steps} steps, {usual.replay_long_share:.0%} long, KL {usual.replay_kl_weight:g}"
    line = frame[(frame["name"] == "LongRecipe") & (frame["replay"] == replay)]
    values = line.set_index(["rule", "weight"])["NIAH(M)"]
    assert values["uniform", 0.0] == values["spare_qk", 0.0] == pytest.approx(80.0)
    assert values["uniform", 0.5] == pytest.approx(60.0)
    assert (frame["seeds"] == 3).all()
    assert frame["replay"].nunique() == 6


def test_scores_during_stage_one_stand_by_step(root):
    grid = steps.EXPERIMENT.grid(seeds=SEEDS)
    for p in grid:
        reached = {
            f"step {n}": numbers(0.1 * i + 0.01 * p.seed, [p.window, p.target_length])
            for i, n in enumerate(p.eval_steps)
        }
        results.save(p, scores.STEPS, {"scores": results.score_rows(reached)}, seconds=1.0)
    rows = scores.step_scores(grid)
    by = ["name", "seed", "step"]
    every = scores.step_scores().sort_values(by, ignore_index=True)
    assert len(rows) == len(grid) * 4 and every.equals(rows.sort_values(by, ignore_index=True))
    table = steps.section(rows)
    assert list(table.index.unique("name")) == ["PoSE", "LongRecipe"]
    assert list(table.xs("PoSE", level="name").index.get_level_values("step")) == [5, 10, 20, 40]
    assert table["NIAH(M)", "mean"].tolist() == pytest.approx(2 * [1.0, 11.0, 21.0, 31.0])
    assert table["perplexity", "mean"].eq(20.0).all()


@pytest.mark.parametrize(
    ("model", "windows", "niah"), [("llama3", 16, 82.6), ("mistral", 10, 64.7), ("qwen2", 16, 65.8)]
)
def test_the_papers_values_stand_by_method(model, windows, niah):
    table = table1.paper(model, windows)
    assert table.loc["LongRecipe", "niah_m"] == niah
    base = {"llama3": 65.7, "mistral": 55.7, "qwen2": 66.1}[model]
    assert table.loc["LongRecipe", "mmlu kept"] == pytest.approx(100 * table.loc["LongRecipe", "mmlu"] / base)
    assert "base" not in table.index


@pytest.mark.slow
def test_every_figure_shows_what_it_is_given(grid, root):
    front = fronts.EXPERIMENT.grid(seeds=SEEDS)
    runs = [*figure2.EXPERIMENT.grid(seeds=SEEDS), *front]
    for p in runs:
        save(p, scores.FRONT if p in front else scores.GRID)
    final = scores.final(scores.scores(grid))
    table = scores.over_seeds(final[final["name"] != "base"], ["name"], ["NIAH(M)", "stage 1 seconds"])
    by_ratio = scores.final(scores.scores([*runs[: 11 * 3], *(p for p in grid if p.method == "none")]))
    lines = {
        name: scores.over_seeds(rows, ["ratio"], ["NIAH(M)", "stage 1 seconds"])
        for name, rows in by_ratio.groupby("name")
        if name in ("LongRecipe", "contiguous")
    }
    stages = scores.scores(grid)
    stages = stages[stages["stage"].isin(["extended", "replayed", "merged"])]
    quoted = table1.paper("llama3", 16)["niah_m"]
    figures = [
        table1.figure({"T": table}, {"T": quoted}),
        table1.depth_figure(scores.depths(grid)),
        figure2.cost_figure(table.loc[["FLT", "PoSE"]], lines, "stage 1 seconds"),
        figure2.figure(lines, figure2.paper()),
        table3.figure(scores.over_seeds(stages, ["name", "stage"], table3.COLUMNS)),
        fronts.figure(fronts.means(scores.front_scores(front, [p for p in grid if p.method == "none"]))),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert all(axis.has_data() for axis in figure.axes)
    drawn = [line.get_xdata()[0] for line in figures[0].axes[0].lines if len(line.get_xdata()) == 1]
    assert {82.6, 73.2} <= set(drawn)
    assert pytest.approx(80.0) in drawn


def test_the_papers_tables_2_and_3_stand_by_our_names(root):
    parts = table2.paper()["niah_m"]
    assert parts["LongRecipe, first tokens"] == 71.9 and parts["LongRecipe, random sentences"] == 70.1
    stages = table3.paper()
    assert stages.loc[("LongRecipe", "merged"), "gsm8k kept"] == pytest.approx(100 * 57.9 / 71.4)


@pytest.mark.slow
def test_what_has_too_few_seeds_is_not_summed_up(grid):
    before = summary()
    for p in table1.EXPERIMENT.grid("qwen2", seeds=SEEDS[:2], targets=[TARGET]):
        save(p)
    assert summary() == before
    for p in table1.EXPERIMENT.grid("qwen2", seeds=SEEDS[2:], targets=[TARGET]):
        save(p)
    assert "| qwen2 | 4096 | LongRecipe | 3 |" in unpadded(summary())


def test_the_summary_holds_all_tables(grid):
    text = unpadded(summary())
    assert "| llama3 | 4096 | LongRecipe | 3 | 80.0 ± 2.5 |" in text
    assert "| llama3 | 4096 | LongRecipe | extended | 3 |" in text
    for title in ("Table 1", "Table 2", "Table 3", "Figure 2"):
        assert f"### {title}" in text


def test_damaged_run_is_left_out_of_the_tables(grid, caplog):
    whole = scores.scores()
    run = next(p for p in grid if (p.method, p.seed) == ("pose", 0))
    path = results.run_dir(run, scores.GRID) / "metrics.json"
    path.write_text("")
    left = scores.scores()
    rest = whole[(whole["name"] != "PoSE") | (whole["seed"] != 0)].reset_index(drop=True)
    pd.testing.assert_frame_equal(left, rest, check_exact=True)
    assert str(path) in caplog.text and "Table 1: methods" in summary()
    with pytest.raises(ValueError, match=r"metrics\.json .*; delete the folder .*, and run it again"):
        scores.scores(grid)


def test_damaged_base_leaves_its_runs_out(grid, caplog):
    base = next(p for p in grid if (p.method, p.seed) == ("none", 0))
    (results.run_dir(base, scores.GRID) / "metrics.json").write_text("{}")
    assert set(scores.scores()["seed"]) == {1, 2} and "delete the folder" in caplog.text
