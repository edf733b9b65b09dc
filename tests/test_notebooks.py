"""The notebooks as a reader runs them: their form, what they refuse, and every method end to end on a short setting."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import torch
from limits import TIMEOUT
from papermill import inspect_notebook
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.translators import PythonTranslator

from longrecipe.positions import METHODS

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHORT = {
    "target_length": 1024,
    "probe_window": 512,
    "probe_steps": 2,
    "probe_batch_size": 2,
    "analysis_documents": 20,
    "n_documents": 32,
    "extend_steps": 3,
    "extend_batch_size": 2,
    "replay_steps": 3,
    "replay_batch_size": 2,
    "save_steps": 2,
    "eval_documents": 2,
}


def command(notebook: str, out: Path, **parameters) -> list[str]:
    words = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / notebook), str(out), "--no-progress-bar"]
    return words + [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def papermill(notebook: str, out: Path, environment: dict, **parameters) -> subprocess.CompletedProcess:
    words = command(notebook, out, **parameters)
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=out.parent, timeout=TIMEOUT)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A root of its own, so that a test's results and cache stay out of the repository."""
    for name in ("params", "notebooks"):
        (tmp_path / "root" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "root" / name).symlink_to(ROOT / name)
    (tmp_path / "root" / "results").mkdir()
    # What the paper says is part of the repository; what runs measure is not.
    (tmp_path / "root" / "results" / "paper").symlink_to(ROOT / "results" / "paper")
    monkeypatch.setenv("LONGRECIPE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    return dict(os.environ)


def code_cells(path: Path) -> list:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def assigned(source: str) -> list[str]:
    return [target.id for statement in ast.parse(source).body for target in statement.targets]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestForm:
    def test_one_parameters_cell_comes_first(self, path):
        tagged = [i for i, cell in enumerate(code_cells(path)) if "parameters" in cell.metadata.get("tags", [])]
        assert tagged == [0]

    def test_is_committed_run_and_without_errors(self, path):
        for cell in code_cells(path):
            assert cell.execution_count is not None, cell.source
            assert all(output.output_type != "error" for output in cell.outputs), cell.source

    def test_shows_figures_and_no_progress_bars(self, path):
        outputs = [output for cell in code_cells(path) for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        assert not any(output.get("name") == "stderr" for output in outputs)

    def test_defines_nothing(self, path):
        for cell in code_cells(path):
            assert not any(line.lstrip().startswith(("class ", "def ")) for line in cell.source.splitlines())

    def test_papermill_reads_every_parameter(self, path, caplog):
        cell = code_cells(path)[0]
        caplog.set_level("WARNING")
        found = inspect_notebook(str(path))
        assert list(found) == assigned(cell.source) and not caplog.records
        # The same when it runs the notebook, with values such as those of the README.
        given = dict.fromkeys(found, 3) | ({"method": "pose:n_chunks=4"} if "method" in found else {})
        parameterize_notebook(load_notebook_node(str(path)), given)
        assert not caplog.records
        assert not set(given) - {each.name for each in PythonTranslator.inspect(cell)} and not caplog.records

    def test_later_cells_leave_the_parameters_alone(self, path):
        first, *later = code_cells(path)
        names = set(assigned(first.source))
        for cell in later:
            stored = [n.id for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Name) and is_stored(n)]
            assert not names & set(stored), cell.source

    def test_names_no_path_of_a_machine(self, path):
        assert str(ROOT) not in path.read_text(encoding="utf-8")


def test_an_unknown_name_is_refused_by_every_kind_of_notebook(tmp_path, environment):
    run = papermill("00_mini_models.ipynb", tmp_path / "out.ipynb", environment, retrian=True)
    assert run.returncode == 1 and "Did you mean 'retrain'? Allowed are model, retrain" in run.stderr


def test_a_question_that_cannot_be_answered_lists_what_can(tmp_path, environment):
    run = papermill("05_resources.ipynb", tmp_path / "out.ipynb", environment, gpus=2)
    assert run.returncode == 1 and "Did you mean 'gpu'? Allowed are model, scale" in run.stderr


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "nope"}, f"allowed are {', '.join(METHODS)}"),
        ({"ratio": 1.7}, "ratio = 1.7"),
        ({"extend_stepz": 3}, "Did you mean 'extend_steps'?"),
        ({"model": "gpt5"}, "mini: llama3"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_run_stops_at_once_and_says_why(parameters, message, tmp_path, environment):
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 1
    assert message in run.stderr
    ran = [cell for cell in code_cells(tmp_path / "out.ipynb") if cell.execution_count is not None]
    # parameters, what papermill injected after them, and the cell that checks
    assert len(ran) == 3


# One of every kind; tests/test_recipe.py trains with each method.
@pytest.mark.parametrize("method", ["longrecipe", "source", "pose:n_chunks=3", "flt", "none"])
def test_methods_run_end_to_end(method, tmp_path, environment):
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, method=method, **SHORT)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "train").glob("*/metrics.json")
    record = json.loads(metrics.read_text())
    stages = record["numbers"]["stages"]
    assert record["params"]["method"] == method
    assert set(stages["base"]["recall"]) == {"256", "512", "1024"}
    assert ("merged" in stages) == (method != "none")
    assert list((metrics.parent / "figures").glob("*.png"))


@pytest.mark.parametrize("selection", ["density", "random", "first"])
def test_every_selection_runs_end_to_end(selection, tmp_path, environment):
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, selection=selection, **SHORT)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "train").glob("*/metrics.json")
    # Only a selection by anchors needs the token analysis.
    assert bool(json.loads(metrics.read_text())["numbers"]["anchors"]) == (selection == "density")


def test_what_is_measured_can_be_chosen(tmp_path, environment):
    chosen = {"eval_stages": "[base, RoPE rule alone, merged]", "eval_passkeys": 5, "eval_lengths": "[128]"}
    parameters = SHORT | chosen | {"selection": "random", "replay_length": 64, "eval_precision": "auto"}
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "train").glob("*/metrics.json")
    numbers = json.loads(metrics.read_text())["numbers"]
    assert list(numbers["stages"]) == ["base", "RoPE rule alone", "merged"]
    assert [tasks["passkey"]["prompts"] for tasks in numbers["stages"]["merged"]["tasks"].values()] == [3, 3, 5]
    assert list(numbers["stages"]["merged"]["tasks"]) == ["128", "256", "1024"]
    assert set(numbers["training_seconds"]) == {"extended", "replayed"}, "what is not measured is not trained"
    assert {"passkeys.png", "recall.png"} <= {path.name for path in (metrics.parent / "figures").iterdir()}
    gains = (metrics.parent / "gains.csv").read_text().splitlines()
    assert gains[0] == "measure,length,gain,low,high,documents" and "passkey,1024," in "".join(gains)
    told = [o["text"] for c in code_cells(tmp_path / "out.ipynb") for o in c.outputs if o.get("name") == "stdout"]
    assert any("LlamaForCausalLM, window 1,024 tokens, tokenizer by" in text for text in told)


def test_the_token_analysis_runs_by_parts_of_speech_and_log_probability(tmp_path, environment):
    parameters = SHORT | {"token_types": "pos", "analysis_score": "logprob", "anchor_count": 2}
    run = papermill("01_token_analysis.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "tokens").glob("*/metrics.json")
    numbers = json.loads(metrics.read_text())["numbers"]
    assert len(numbers["anchors"]) == 2 and set(numbers["anchors"]) <= set(numbers["rankings"]["pos"])
    assert numbers["n_tokens"] == 20 * 512
    assert {path.name for path in (metrics.parent / "figures").iterdir()} == {
        "class.png",
        "figure4.png",
        "pos.png",
        "selections.png",
    }


def test_positions_are_shown_for_other_settings(tmp_path, environment):
    # Short samples: of 200 tokens, and of 16 where a cell tries smaller ratios.
    parameters = {"target_length": 1000, "ratio": 0.2, "seed": 3, "method": "pose"}
    run = papermill("02_position_transform.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "positions").glob("*/metrics.json")
    record = json.loads(metrics.read_text())
    found = record["numbers"]["coverage"]
    assert list(found) == [name for name, method in METHODS.items() if method.positions]
    assert found["pose"]["visited_by_one"] == pytest.approx(0.2) and found["flt"]["visited_by_one"] == 1
    # Of 200 tokens, half of a PoSE sample is in a row.
    assert found["pose"]["contiguous_run"] == pytest.approx(100, rel=0.02)
    assert len(record["numbers"]["figure_3"]) == 5
    assert {path.name for path in (metrics.parent / "figures").iterdir()} == {
        "distances.png",
        "figure3.png",
        "maps.png",
    }


def test_a_grid_that_has_not_run_is_run_and_shown(tmp_path, environment):
    short = {name: value for name, value in SHORT.items() if name != "target_length"}
    run = papermill("04_long_context.ipynb", tmp_path / "out.ipynb", environment, targets=512, n_seeds=2, **short)
    assert run.returncode == 0, run.stderr[-2000:]
    results = tmp_path / "root" / "results"
    runs = [path.parent.name for path in (results / "grid").glob("*/metrics.json")]
    assert len(runs) == 10 and sum("-none-512-" in name for name in runs) == 2
    (folder,) = (results / "long_context").iterdir()
    assert {path.name for path in folder.rglob("*.*")} == {"table1.csv", "claims.csv", "methods.png", "depths.png"}
    assert "T = 512: NIAH(M): LongRecipe >= FLT - 2" in (folder / "claims.csv").read_text()


@pytest.mark.parametrize(
    ("notebook", "parameters", "message"),
    [
        ("04_long_context.ipynb", {"method": "pose"}, "method: the grid sets it"),
        ("06_general_tasks.ipynb", {"replay_steps": 3}, "replay_steps: the grid sets it"),
        ("06_general_tasks.ipynb", {"targets": 2560}, "unknown parameter 'targets'"),
        ("07_ablations.ipynb", {"ratio": 0.2}, "ratio: the grid sets it"),
    ],
)
def test_what_a_grid_cannot_take_stops_before_anything_is_trained(notebook, parameters, message, tmp_path, environment):
    run = papermill(notebook, tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 1 and message in run.stderr
    assert not (tmp_path / "cache").exists()


def test_what_does_not_fit_stops_at_once_and_says_what_would(tmp_path, environment):
    run = papermill("05_resources.ipynb", tmp_path / "out.ipynb", environment, gpu="RTX 4090 24 GB")
    assert run.returncode == 1
    assert "DoesNotFitError" in run.stderr and "These would fit: 4 such GPUs" in run.stderr
    ran = [cell for cell in code_cells(tmp_path / "out.ipynb") if cell.execution_count is not None]
    assert len(ran) == 3


def test_resources_are_told_for_another_model_and_without_a_measurement(tmp_path, environment):
    parameters = {"model": "qwen2", "target_length": 81920, "price_per_gpu_hour": 4}
    run = papermill("05_resources.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 0, run.stderr[-2000:]
    (metrics,) = (tmp_path / "root" / "results" / "resources").glob("*/metrics.json")
    record = json.loads(metrics.read_text())
    assert record["question"]["model"] == "qwen2" and record["question"]["price_per_gpu_hour"] == 4
    # The test's root holds no measurements.
    measured = [claim["verdict"] for claim in record["claims"] if claim["label"] == "measured"]
    assert measured and set(measured) == {"not measured"}
    assert {path.name for path in (metrics.parent / "figures").iterdir()} == {
        "length.png",
        "longest.png",
        "memory.png",
        "mini.png",
        "parts.png",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_what_would_take_days_says_so(tmp_path, environment):
    # The paper's model: its shape is known without its files.
    large = {"model": "llama3", "scale": "paper", "optimizer": "adamw_bf16", "offload_activations": False}
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, **large)
    assert run.returncode == 1
    assert "training would take" in run.stderr and "days without a GPU (modelled)" in run.stderr


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been_killed(tmp_path, environment):
    parameters = SHORT | {"extend_steps": 8, "save_steps": 1, "precision": "fp32"}
    run = subprocess.Popen(
        command("03_train.ipynb", tmp_path / "killed.ipynb", **parameters),
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + TIMEOUT
    while not list((tmp_path / "cache").glob("*/extend/checkpoints/checkpoint-[23]/trainer_state.json")):
        assert run.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    # papermill and its kernel are one process group.
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    again = papermill("03_train.ipynb", tmp_path / "again.ipynb", environment, **parameters)
    assert again.returncode == 0, again.stderr[-2000:]
    printed = "".join(
        output.text for cell in code_cells(tmp_path / "again.ipynb") for output in cell.outputs if "text" in output
    )
    assert re.search(r"extended .* resumed from step [2-7]\b", printed)
    environment["LONGRECIPE_CACHE"] = str(tmp_path / "other")
    whole = papermill("03_train.ipynb", tmp_path / "whole.ipynb", environment, **parameters)
    assert whole.returncode == 0, whole.stderr[-2000:]
    resumed, in_one_go = (
        json.loads(next((tmp_path / cache).glob("*/extend/stage.json")).read_text()) for cache in ("cache", "other")
    )
    assert len(in_one_go["losses"]) == 8
    assert resumed["losses"] == in_one_go["losses"]
