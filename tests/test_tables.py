"""The paper's tables from made-up runs, whose numbers are known."""

import numpy as np
import pandas as pd
import pytest

from longrecipe import experiments, plots, results, settings
from longrecipe.experiments import tables
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
        "tasks": dict.fromkeys(lengths, tasks),
        "perplexity": perplexity,
        "copying": copying,
        "first_copy": 0.3,
    }


def save(p, experiment=tables.GRID, full=True):
    plus, ends = 0.01 * p.seed, [p.window, p.target_length]
    if p.method == "none":
        stages = {
            "base": numbers(0.0, ends),
            "RoPE rule alone": numbers(0.3 + plus, ends, perplexity=25.0),
            "base, inside": numbers(0.7, [p.window]),
        }
        record = {"full": True, "stages": stages}
    else:
        niah = LONG[p.method.split(":")[0]] - (0.1 if p.selection != "anchored" else 0) + plus
        niah -= 0.2 * ("max_gap" in p.method) + 0.5 * max(0, 0.3 - p.ratio)
        seconds = 200.0 if p.method == "flt" else 100 * p.ratio
        training = {
            "extended": {"seconds": seconds, "n_tokens": 1000, "flops": 2e12},
            "replayed": {"seconds": 10.0, "n_tokens": 100, "flops": 1e12},
        }
        if p.method == "longrecipe":
            training["token analysis"] = {"seconds": 7.0, "flops": 5e11}
        record = {"full": full, "training": training, "anchors": []}
        if experiment == tables.FRONT:
            cells = [("uniform", 0.0, niah), ("uniform", 0.5, niah - 0.2), ("spare_qk", 0.5, niah)]
            record["merges"] = [
                {"rule": rule, "weight": weight, "numbers": numbers(value, ends, single=False)}
                for rule, weight, value in cells
            ]
        else:
            record["stages"] = {
                "extended": numbers(niah, ends, perplexity=30.0, recall=0.81),
                "replayed": numbers(niah, ends, perplexity=25.0),
                "merged": numbers(niah, ends, perplexity=20.0 / 0.98, single=full),
            }
    stage = "base" if p.method == "none" else "merged"
    depths = pd.DataFrame(
        [("multi-key", TARGET, fifth, 0.5 + 0.1 * p.seed, 10 * (p.seed + 1), stage) for fifth in range(5)],
        columns=["task", "length", "depth", "mean", "count", "stage"],
    )
    results.save(results.run_dir(p, experiment), p, record, 1.0, {"depths": depths})


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the paper's tables and the real params, but no runs."""
    from longrecipe.system.paths import root

    for name in ("params", "notebooks"):
        (tmp_path / name).symlink_to(root() / name)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "paper").symlink_to(root() / "results" / "paper")
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def grid(root):
    grid = experiments.methods("llama3", SEEDS, [TARGET])
    for p in grid:
        save(p)
    return grid


def test_scores_are_in_percent_of_the_base(grid):
    frame = tables.scores(grid).set_index(["name", "stage", "seed"])
    merged = frame.loc["LongRecipe", "merged", 1]
    assert merged["NIAH(M)"] == pytest.approx(80.0)
    assert merged["RULER-like"] == pytest.approx((80 * 3 + 84) / 4)
    assert merged["perplexity kept"] == pytest.approx(98.0)
    assert frame.loc["LongRecipe", "extended", 0]["short recall kept"] == pytest.approx(90.0)
    assert frame.loc["RoPE rule alone", "base, inside", 0]["NIAH(M)"] == pytest.approx(70.0)


def test_training_is_that_of_all_stages_before(grid):
    frame = tables.scores(grid).set_index(["name", "stage", "seed"])
    ours = [frame.loc["LongRecipe", stage, 0] for stage in ("extended", "replayed", "merged")]
    assert [row["training seconds"] for row in ours] == [37, 47, 47]
    assert [row["stage 1 seconds"] for row in ours] == [30, 30, 30]
    assert [row["analysis and stage 1 seconds"] for row in ours] == [37, 37, 37]
    assert [row["training TFLOP"] for row in ours] == [2.5, 3.5, 3.5]
    assert np.isnan(frame.loc["RoPE rule alone", "base", 0]["training seconds"])
    assert frame.loc["PoSE", "merged", 0]["training seconds"] == 40


def test_a_run_that_is_missing_is_named(grid, root):
    with pytest.raises(FileNotFoundError, match=r"seed3.* has not finished"):
        tables.scores(experiments.methods("llama3", [3], [TARGET]))
    with pytest.raises(FileNotFoundError, match="run method none as well"):
        tables.scores([p for p in grid if p.method != "none"])


def test_the_table_of_methods_has_the_papers_order_and_intervals(grid):
    final = tables.final(tables.scores(grid))
    assert list(dict.fromkeys(final["name"])) == ["base", "RoPE rule alone", "FLT", "RPES", "PoSE", "LongRecipe"]
    table = tables.over_seeds(final, ["target", "name"], ["NIAH(M)", "recall"])
    row = table.loc[(TARGET, "PoSE"), "NIAH(M)"]
    # Seeds 0, 1, 2 give 50, 51, 52: standard deviation 1, t = 4.303.
    assert (row["mean"], row["low"]) == (pytest.approx(51.0), pytest.approx(51 - 4.303 / 3**0.5))
    assert table.loc[(TARGET, "PoSE"), ("seeds", "number")] == 3
    assert tables.shown(table).loc[(TARGET, "PoSE"), "NIAH(M)"] == "51.0 ± 2.5"


def test_one_seed_has_no_interval_and_what_was_not_measured_is_empty():
    frame = pd.DataFrame({"name": ["a", "b"], "x": [1.0, float("nan")], "seed": [0, 0]})
    table = tables.over_seeds(frame, ["name"], ["x"])
    assert tables.shown(table)["x"].tolist() == ["1.0", ""]


def test_runs_of_other_settings_are_no_further_seeds(grid):
    frame = pd.concat([tables.scores(grid), tables.scores(grid)], ignore_index=True)
    with pytest.raises(ValueError, match="several rows a seed: group by more than name"):
        tables.over_seeds(tables.final(frame), ["name"], ["NIAH(M)"])
    before = summary()
    for p in experiments.methods("llama3", SEEDS, [TARGET], replay_kl_weight=0.0):
        save(p)
    # Runs whose base has not been measured.
    for p in experiments.ratio("llama3", [7]):
        save(p)
    assert summary() == before


def test_depths_put_all_seeds_together(grid):
    depths = tables.depths(grid)
    assert set(depths["name"]) == {"FLT", "RPES", "PoSE", "LongRecipe"}
    # Means 0.5, 0.6, 0.7 of 10, 20, 30 prompts.
    assert depths["score"].to_numpy() == pytest.approx((0.5 * 10 + 0.6 * 20 + 0.7 * 30) / 60)


def test_variants_have_names_of_their_own(root):
    grid = experiments.ablation("llama3", [0, 1])
    for p in grid:
        save(p, full=False)
    names = set(tables.final(tables.scores(grid))["name"])
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


def test_fronts_start_every_rule_at_the_replayed_model(grid):
    front = experiments.front("llama3", SEEDS)
    for p in front:
        save(p, tables.FRONT)
    frame = tables.fronts(tables.front_scores(front, [p for p in grid if p.method == "none"]))
    usual = settings.load("llama3")
    replay = f"{usual.replay_steps} steps, {usual.replay_long_share:.0%} long, KL {usual.replay_kl_weight:g}"
    line = frame[(frame["name"] == "LongRecipe") & (frame["replay"] == replay)]
    values = line.set_index(["rule", "weight"])["NIAH(M)"]
    assert values["uniform", 0.0] == values["spare_qk", 0.0] == pytest.approx(80.0)
    assert values["uniform", 0.5] == pytest.approx(60.0)
    assert (frame["seeds"] == 3).all()
    assert frame["replay"].nunique() == 6


@pytest.mark.parametrize(
    ("model", "windows", "niah"), [("llama3", 16, 82.6), ("mistral", 10, 64.7), ("qwen2", 16, 65.8)]
)
def test_the_papers_values_stand_by_method(model, windows, niah):
    table = tables.paper_methods(model, windows)
    assert table.loc["longrecipe", "niah_m"] == niah
    base = {"llama3": 65.7, "mistral": 55.7, "qwen2": 66.1}[model]
    assert table.loc["longrecipe", "mmlu kept"] == pytest.approx(100 * table.loc["longrecipe", "mmlu"] / base)
    assert "base" not in table.index


def test_every_figure_shows_what_it_is_given(grid, root):
    front = experiments.front("llama3", SEEDS)
    runs = [*experiments.ratio("llama3", SEEDS), *front]
    for p in runs:
        save(p, tables.FRONT if p in front else tables.GRID)
    final = tables.final(tables.scores(grid))
    table = tables.over_seeds(final[final["name"] != "base"], ["name"], ["NIAH(M)", "stage 1 seconds"])
    by_ratio = tables.final(tables.scores([*runs[: 11 * 3], *(p for p in grid if p.method == "none")]))
    lines = {
        name: tables.over_seeds(rows, ["ratio"], ["NIAH(M)", "stage 1 seconds"])
        for name, rows in by_ratio.groupby("name")
        if name in ("LongRecipe", "contiguous")
    }
    stages = tables.scores(grid)
    stages = stages[stages["stage"].isin(["extended", "replayed", "merged"])]
    quoted = tables.paper_methods("llama3", 16).rename(tables.NAMES)["niah_m"]
    figures = [
        plots.methods({"T": table}, {"T": quoted}),
        plots.depth_maps(tables.depths(grid)),
        plots.cost(table.loc[["FLT", "PoSE"]], lines, "stage 1 seconds"),
        plots.ratios(lines, tables.paper("fig2_token_ratio")),
        plots.stages(tables.over_seeds(stages, ["name", "stage"], list(tables.GENERAL)), list(tables.GENERAL)),
        plots.fronts(tables.fronts(tables.front_scores(front, [p for p in grid if p.method == "none"]))),
    ]
    for figure in figures:
        figure.canvas.draw()
        assert all(axis.has_data() for axis in figure.axes)
    heights = [line.get_ydata()[0] for line in figures[0].axes[0].lines if len(line.get_ydata()) == 1]
    assert {82.6, 73.2} <= set(heights)
    assert pytest.approx(80.0) in heights


def test_the_papers_tables_2_and_3_stand_by_our_names(root):
    parts = tables.paper_parts()["niah_m"]
    assert parts["LongRecipe, first tokens"] == 71.9 and parts["LongRecipe, random sentences"] == 70.1
    stages = tables.paper_stages()
    assert stages.loc[("LongRecipe", "merged"), "gsm8k kept"] == pytest.approx(100 * 57.9 / 71.4)


def test_tables_of_a_grid_have_a_folder_of_their_own(grid):
    folder = tables.save("parts", grid, {"a": pd.DataFrame({"x": [1 / 3]}, index=["row"])})
    assert (folder / "a.csv").read_text() == ",x\nrow,0.333333\n"
    assert folder.parent.name == "parts" and folder.name.startswith("llama3-")
    assert tables.save("parts", grid[1:], {}) != folder == tables.save("parts", grid, {})


def test_what_has_too_few_seeds_is_not_summed_up(grid):
    before = summary()
    for p in experiments.methods("qwen2", SEEDS[:2], [TARGET]):
        save(p)
    assert summary() == before
    for p in experiments.methods("qwen2", SEEDS[2:], [TARGET]):
        save(p)
    assert "| qwen2 | 4096 | LongRecipe | 3 |" in summary()


def test_the_summary_holds_all_tables(grid):
    text = summary()
    assert "| llama3 | 4096 | LongRecipe | 3 | 80.0 ± 2.5 |" in text
    assert "| llama3 | 4096 | LongRecipe | extended | 3 |" in text
    for title in ("Table 1", "Table 2", "Table 3", "Figure 2"):
        assert f"### {title}" in text


def test_a_damaged_run_is_left_out_of_the_tables(grid, caplog):
    whole = tables.scores()
    runs = {p.seed: results.run_dir(p, tables.GRID) for p in grid if p.method == "pose"}
    (runs[0] / "metrics.json").write_text("")
    text = (runs[1] / "depths.csv").read_text()
    (runs[1] / "depths.csv").write_text(text[: len(text) // 2])
    left = tables.scores()
    pd.testing.assert_frame_equal(
        left, whole[(whole["name"] != "PoSE") | (whole["seed"] == 2)].reset_index(drop=True), check_exact=True
    )
    assert str(runs[0] / "metrics.json") in caplog.text and str(runs[1] / "depths.csv") in caplog.text
    assert "Table 1: methods" in summary()
    for asked in (lambda: tables.scores(grid), lambda: tables.depths(grid)):
        with pytest.raises(ValueError, match=r"(metrics\.json|depths\.csv) .*; delete the folder .*, and run it again"):
            asked()


def test_a_damaged_base_leaves_its_runs_out(grid, caplog):
    base = next(p for p in grid if (p.method, p.seed) == ("none", 0))
    (results.run_dir(base, tables.GRID) / "metrics.json").write_text("{}")
    assert set(tables.scores()["seed"]) == {1, 2} and "delete the folder" in caplog.text
