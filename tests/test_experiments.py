"""Grids of the experiments: which runs they hold, and what notebooks and the command line may ask of them."""

import re
import shlex
from itertools import combinations

import numpy as np
import pytest
from runs import SHORT, settings_of

from longrecipe import recipe, results, settings
from longrecipe.cli import main
from longrecipe.experiments import EXPERIMENTS, runner
from longrecipe.experiments.protocols import FULL, LEAN, MERGES
from longrecipe.experiments.scores import CONTIGUOUS

TABLE1, TABLE2, TABLE3, FIGURE2, FRONTS, STEPS, WEIGHTS, RATES, CONTROL, *_ = EXPERIMENTS.values()


def test_every_experiment_has_the_name_of_its_module():
    names = ["table1", "table2", "table3", "figure2", "fronts", "steps", "weights", "rates", "control"]
    names += ["real", "growth", "factors"]
    assert list(EXPERIMENTS) == names
    assert all(name == each.name for name, each in EXPERIMENTS.items())


def test_table1_has_every_method_at_every_target(own_root):
    grid = TABLE1.grid()
    expected = {
        (model, target, seed, method)
        for model in ("llama3", "mistral", "qwen2")
        for target in (2560, 4096)
        for seed in range(5 if model == "llama3" else 3)
        for method in ("none", "flt", "rpes", "pose", "longrecipe")
    }
    found = settings_of(grid, "model", "target_length", "seed", "method")
    assert len(found) == len({p.key for p in grid}) == 110 and set(found) == expected
    some = TABLE1.grid("qwen2", seeds=[7], targets=[512], eval_documents=3)
    assert settings_of(some, "model", "seed", "eval_documents") == [("qwen2", 7, 3)] * 5
    # All other settings are those of the params file.
    assert settings.load("mistral", method="pose", seed=1, target_length=2560) in grid
    assert TABLE3.grid() == grid


def test_table2_leaves_out_one_part_at_a_time(own_root):
    found = settings_of(TABLE2.grid(seeds=[4]), "method", "selection", "seed")
    assert sorted(found) == [
        ("longrecipe", "anchored", 4),
        ("longrecipe", "first", 4),
        ("longrecipe", "random", 4),
        ("longrecipe:max_gap=0", "anchored", 4),
        ("longrecipe:max_gap=0", "first", 4),
        ("none", "anchored", 4),
        ("pose", "anchored", 4),
    ]
    assert len(set(TABLE2.grid())) == 21 and {p.model for p in TABLE2.grid()} == {"llama3"}


def test_figure2_trains_each_ratio_with_and_without_skips_and_flt(own_root):
    found = settings_of(FIGURE2.grid(seeds=[0]), "method", "ratio", "train_length")
    shares = {0.05: 204, 0.1: 409, 0.2: 819, 0.3: 1228, 0.4: 1638}
    both = [(method, *share) for method in ("longrecipe", CONTIGUOUS) for share in shares.items()]
    assert sorted(found) == sorted([*both, ("flt", 0.3, 4096)])
    assert len(set(FIGURE2.grid())) == 33


def test_fronts_train_every_method_and_other_replays(own_root):
    grid, default = FRONTS.grid(seeds=[6]), settings.load("llama3", seed=6)
    found = settings_of(grid, "method", "replay_kl_weight", "replay_long_share", "replay_steps")
    usual = (default.replay_kl_weight, default.replay_long_share, default.replay_steps)
    kl_weight, share, steps = usual
    assert sorted(found) == sorted(
        [(method, *usual) for method in ("flt", "rpes", "pose", "longrecipe")]
        + [("longrecipe", 0.0, share, steps), ("longrecipe", kl_weight, 0.0, steps), ("longrecipe", 0.0, 0.0, steps)]
        + [("longrecipe", kl_weight, share, others) for others in (40, 80)]
    )
    assert len(set(FRONTS.grid())) == 27 and default in grid


def test_steps_trains_pose_and_longrecipe_and_measures_both_during_stage_one(own_root):
    default = settings.load("llama3")
    assert settings_of(STEPS.grid(seeds=[0]), "method", "eval_steps") == [
        ("pose", (5, 10, 20, 40)),
        ("longrecipe", (5, 10, 20, 40)),
    ]
    assert len(set(STEPS.grid())) == 6 and default.extend_steps == 40
    with pytest.raises(settings.ParamsError, match=r"^eval_steps: the grid of steps sets it"):
        STEPS.check({"eval_steps": [10]})


def test_weights_compares_both_recipes_with_and_without_weights(own_root):
    found = settings_of(WEIGHTS.grid(seeds=[7]), "method", "ratio", "extend_steps", "loss_weight")
    assert found[:4] == [("longrecipe", ratio, 60, weight) for ratio in (0.2, 0.15) for weight in ("none", "anchor")]
    # With about the compute of the first recipe: 12 long steps, and all 60 short ones.
    assert found[4:7] == [("flt", 0.3, 6, "none"), ("flt", 0.3, 6, "anchor"), ("pose", 0.2, 60, "anchor")]
    assert found[7:] == [("longrecipe", 0.2, 60, weight) for weight in ("shift", "longce", "helm")]
    few = WEIGHTS.grid(seeds=[7])[4]
    assert (few.replay_long_steps, few.replay_steps - few.replay_long_steps) == (6, 60)
    grid = WEIGHTS.grid()
    assert {(p.probe_length, p.analysis_documents) for p in grid} == {(512, 12)} and len(set(grid)) == len(grid)
    five = {(p.ratio, p.loss_weight) for p in grid if p.seed == 4}
    assert five == {(0.2, "anchor"), (0.15, "anchor")}
    # Other families have as many seeds of all.
    assert {p.seed for p in WEIGHTS.grid("qwen2")} == {0, 1, 2}


def test_control_trains_on_three_harder_texts(own_root):
    found = settings_of(CONTROL.grid(seeds=[1]), "distractors", "fact_values", "method", "ratio", "loss_weight")
    runs = [("none", 0.3, "none"), ("longrecipe", 0.2, "none"), ("longrecipe", 0.2, "anchor")]
    texts = [(1.0, "numbers"), (3.0, "numbers"), (0.0, "words")]
    assert found[:9] == [(*text, *each) for text in texts for each in runs]
    assert found[9:] == [(*texts[0], "flt", 0.3, "none"), (*texts[0], "longrecipe", 0.15, "anchor")]


def test_rates_searches_every_method_alike_on_one_seed(own_root):
    grid = RATES.grid("llama3")
    assert {p.seed for p in grid} == {0} and {p.loss_weight for p in grid} == {"anchor"}
    found = settings_of(grid, "method", "extend_learning_rate", "replay_learning_rate")
    assert found == [(method, rate, rate) for method in ("longrecipe", "pose", "flt") for rate in (0.0005, 0.002)]
    # With the usual rate they are runs of weights.
    usual = {p.model_copy(update={"extend_learning_rate": 0.001, "replay_learning_rate": 0.001}) for p in grid}
    assert len(usual) == 3 and usual <= set(WEIGHTS.grid())


def test_runs_that_two_grids_need_are_the_same_run(own_root):
    grids = TABLE1.grid("llama3", seeds=[0, 1, 2]), TABLE2.grid(), FIGURE2.grid()
    every = [p for grid in grids for p in grid]
    # 3 seeds: none, PoSE and LongRecipe are in two grids, LongRecipe in three; FLT and its contiguous control in two.
    assert (len(every), len(set(every))) == (84, 84 - 3 * 5 - 3)
    assert len({p.key for p in every}) == len({results.run_name(p, "grid") for p in every}) == len(set(every))
    shared = [set(a) & set(b) for a, b in combinations(grids, 2)]
    assert [{p.method for p in each} for each in shared] == [
        {"none", "pose", "longrecipe"},
        {"flt", "longrecipe"},
        {"longrecipe", CONTIGUOUS},
    ]


@pytest.mark.slow
def test_the_contiguous_control_trains_on_the_same_samples(own_root, quick_text):
    p = settings.load("llama3", method="longrecipe", selection="random", **SHORT)
    skipping = recipe.prepare(p)
    control = skipping.varied(method=CONTIGUOUS)
    # The same anchors too, if sentences are selected by them.
    assert control.folder("analysis") == skipping.folder("analysis")
    assert control.folder("extend") != skipping.folder("extend")
    rows, same = (run.stage_one_set(None) for run in (skipping, control))
    assert rows["input_ids"] == same["input_ids"] and rows["key"] == same["key"]
    jumping, contiguous = (run.collator()(list(rows))["position_ids"] for run in (skipping, control))
    assert (contiguous == np.arange(153)).all() and (jumping.diff() > 1).any(dim=1).all()


# notebooks


def test_a_notebook_gives_model_seeds_and_settings(own_root):
    grid = FIGURE2.from_notebook({"model": "llama3", "n_seeds": None, "target_length": None, "_": 3})
    assert grid == FIGURE2.grid("llama3", seeds=range(3))
    both = TABLE1.from_notebook({"model": "llama3", "n_seeds": None})
    assert both == TABLE1.grid("llama3", seeds=range(5)) and both[0].target_length == 2560
    assert TABLE2.from_notebook({"model": "mistral"}) == TABLE2.grid("mistral", seeds=range(3))
    for targets in (2560, 2560.0, [2560], "[2560]"):
        found = TABLE1.from_notebook({"model": "qwen2", "targets": targets})
        assert found == TABLE1.grid("qwen2", targets=2560)
    # A setting of the notebook itself is no parameter of it.
    assert TABLE1.from_notebook({"model": "qwen2"}, targets=2560) == TABLE1.grid("qwen2", targets=2560)
    with pytest.raises(settings.ParamsError, match="unknown parameter 'targets'"):
        TABLE1.from_notebook({"model": "qwen2", "targets": 512}, targets=2560)
    own = own_root / "own.yaml"
    own.write_text("scale: mini\nmodel: llama3\ntarget_length: 1024\n")
    own_grid = TABLE1.from_notebook({"model": str(own), "scale": "small", "n_seeds": 2})
    assert {(p.scale, p.target_length) for p in own_grid} == {("mini", 1024)}, "the file names its scale and its target"
    named = {"model": "qwen2", "n_seeds": 2, "eval_documents": 5, "np": np}
    assert FRONTS.from_notebook(named) == FRONTS.grid("qwen2", seeds=range(2), eval_documents=5)


@pytest.mark.parametrize(
    ("experiment", "changes", "message"),
    [
        (TABLE2, {"n_seeds": 1}, "n_seeds = 1: give 2 seeds or more"),
        (TABLE2, {"n_seeds": "3"}, "n_seeds = '3': give 2 seeds or more"),
        (TABLE2, {"seed": 3}, "seed: the grid of table2 sets it"),
        (TABLE2, {"method": "pose"}, "method: the grid of table2 sets it"),
        (TABLE2, {"eval_document": 3}, "unknown parameter 'eval_document'. Did you mean 'eval_documents'"),
        (TABLE1, {"target_length": 2560, "seed": 1}, "seed, target_length: the grid of table1 sets it"),
        (TABLE1, {"selection": "first"}, "selection: the grid of table1 sets it"),
        (TABLE2, {"model": "gpt9"}, "model = 'gpt9' has no params file"),
        (TABLE2, {"model": ["llama3", "qwen2"]}, "has no params file"),
        (TABLE2, {"seeds": 3}, "unknown parameter 'seeds'. Allowed are model, n_seeds, profile"),
        (TABLE2, {"targets": 2560}, "unknown parameter 'targets'"),
        (TABLE1, {"models": "qwen2"}, "unknown parameter 'models'. Allowed are model, n_seeds, targets"),
        (TABLE1, {"targets": []}, r"targets = \[\]: a length in tokens"),
        (TABLE1, {"targets": "[2560"}, r"targets = '\[2560': a length in tokens"),
        (TABLE1, {"targets": True}, "targets = True: a length in tokens"),
        (TABLE1, {"targets": 2560.5}, "targets = 2560.5: a length in tokens"),
    ],
    ids=lambda value: getattr(value, "name", None) or (next(iter(value)) if isinstance(value, dict) else ""),
)
def test_settings_that_a_notebook_cannot_give_are_refused(experiment, changes, message, own_root):
    with pytest.raises(settings.ParamsError, match=message):
        experiment.from_notebook({"model": "llama3"} | changes)


# the command line


def test_a_dry_run_lists_the_runs_and_runs_nothing(quick, capsys):
    grid = TABLE2.grid(seeds=[3])
    TABLE2.run(grid[1:3])
    del quick[:]
    main(["sweep", "table2", "--seeds", "3", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    states = ["left", "finished", "finished", *["left"] * 4]
    names = [results.run_name(p, "grid") for p in grid]
    assert [line.split() for line in lines] == [list(pair) for pair in zip(states, names, strict=True)]
    # Table 1 measures more of the runs that are in both grids.
    main(["sweep", "table1", "--models", "llama3", "--seeds", "3", "--targets", "4096", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["left"] * 5 and names[1] in lines[3]
    assert quick == [] and len(results.finished("grid")) == 2


def test_the_command_line_gives_experiment_models_seeds_and_targets(quick, monkeypatch):
    asked = []
    monkeypatch.setattr(
        runner, "run", lambda grid, protocol, force, alone: asked.append((grid, protocol, force, alone))
    )
    main(["sweep", "table1", "--models", "llama3", "qwen2", "--seeds", "5", "6", "--targets", "1024"])
    main(["sweep", "table1"])
    main(["sweep", "figure2", "--models", "mistral", "--force"])
    main(["sweep", "table2", "--seeds", "0"])
    main(["sweep", "fronts", "--seeds", "0"])
    main(["sweep", "table1", "--scale", "small", "--models", "smollm2", "-p", "profile", "cpu", "-p", "ratio", "0.2"])
    *asked, real = asked
    assert real[0] == TABLE1.grid("smollm2", scale="small", profile="cpu", ratio=0.2)
    assert asked == [
        (TABLE1.grid(["llama3", "qwen2"], seeds=[5, 6], targets=[1024]), FULL, False, True),
        (TABLE1.grid(), FULL, False, True),
        (FIGURE2.grid("mistral"), LEAN, True, True),
        (TABLE2.grid(seeds=[0]), LEAN, False, True),
        (FRONTS.grid(seeds=[0]), MERGES, False, True),
    ]


def test_each_run_that_is_left_has_a_command_of_its_own(quick, capsys, tmp_path):
    own = tmp_path / "my own.yaml"
    own.write_text("model: llama3\nscale: mini\ntarget_length: 1024\n")
    words = ["sweep", "table2", "--seeds", "3", "4", "--models", "llama3", str(own), "-p", "ratio", "0.25"]
    grid = TABLE2.grid(["llama3", str(own)], seeds=[3, 4], ratio=0.25)
    TABLE2.run(grid[1:3])
    main([*words, "--commands"])
    printed = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == len(set(map(tuple, printed))) == len(grid) - 2
    del quick[:]
    for line in printed:
        assert line[0] == "longrecipe"
        main(line[1:])
    assert [p for p, _ in quick] == [p for p in grid if p not in grid[1:3]]
    main([*words, "--commands"])
    assert capsys.readouterr().out == ""
    main(["sweep", "table1", "--seeds", "0", "--targets", "4096", "--commands"])
    assert all("--targets 4096 --only " in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table2", "--only", "llama3-flt"], "--only llama3-flt: the grid has no such run; --dry-run lists its runs"),
        (["table2", "-p", "ratio", "2"], "ratio = '2'"),
        (["table2", "-p", "method", "pose"], "method: the grid of table2 sets it"),
        (["table2", "-p", "scale", "paper"], "-p scale: use --models, --seeds, --targets or --scale"),
        (["table1", "--models", "gpt9"], "model = 'gpt9' has no params file"),
    ],
)
def test_settings_that_cannot_be_run_exit_with_a_message(words, message, quick, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *words])
    assert stop.value.code == 1 and message in capsys.readouterr().err and quick == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["figure2", "--targets", "2560"], r"--targets is for table1; .* target of the params file"),
        (["table2", "--targets", "2560", "--dry-run"], r"--targets is for table1"),
        (["everything"], r"invalid choice: .everything.*table1.*table2.*figure2"),
        (["table1", "--seeds", "one"], r"--seeds: invalid int value: .one"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_exit_with_a_message(words, message, quick, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sweep", *words])
    assert stop.value.code == 2 and re.search(message, capsys.readouterr().err) and quick == []


# Runs that take a GPU or hours, which notebook 08 shows as not measured.
NOT_MEASURED = {"real": 1, "growth": 3, "factors": 2}


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_the_grids_that_notebooks_show_have_finished(name):
    experiment = EXPERIMENTS[name]
    left = [p for p in experiment.grid() if not experiment.is_finished(p)]
    assert len(left) == NOT_MEASURED.get(name, 0), left
