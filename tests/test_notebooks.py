"""The notebooks: their form, what they refuse, and other settings than those that `pytest --nbval` runs.

papermill runs them three times, in processes of its own. All else runs their cells in this one.
"""

import ast
import logging
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

from longrecipe import results
from longrecipe.cost import DoesNotFitError
from longrecipe.experiments import table1
from longrecipe.positions import METHODS
from longrecipe.results import store
from longrecipe.settings import ParamsError

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
    "eval_longppl": 2,
}


def command(notebook: str, out: Path, **parameters) -> list[str]:
    words = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / notebook), str(out), "--no-progress-bar"]
    return words + [word for name, value in parameters.items() for word in ("-p", name, str(value))]


def papermill(notebook: str, out: Path, environment: dict, **parameters) -> subprocess.CompletedProcess:
    words = command(notebook, out, **parameters)
    return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=out.parent, timeout=TIMEOUT)


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """A cache of its own, to which runs are saved."""
    monkeypatch.setenv("LONGRECIPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    return dict(os.environ)


def code_cells(path: Path) -> list:
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]


def outputs_of(path: Path) -> list:
    return [output for cell in code_cells(path) for output in cell.outputs]


def tables_of(path: Path) -> str:
    """The tables that a notebook shows, as plain text."""
    return "\n".join(output.data.get("text/plain", "") for output in outputs_of(path) if "data" in output)


def printed_by(path: Path) -> str:
    """What a notebook prints."""
    return "".join(output.text for output in outputs_of(path) if output.output_type == "stream")


def is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def assigned(source: str) -> list[str]:
    return [target.id for statement in ast.parse(source).body for target in statement.targets]


def changed(source: str, values: dict) -> str:
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = .*?(  #|$)", rf"{name} = {value!r}\1", source, flags=re.M)
        assert count == 1, name
    return source


@pytest.fixture
def run_cells(environment, shell, warm_children):
    """A function that runs a notebook's cells, up to the last one given, with parameters as papermill sets them;
    returns the notebook's variables."""

    def run(notebook, parameters, last=None):
        first, *others = (cell.source for cell in code_cells(ROOT / "notebooks" / f"{notebook}.ipynb"))
        injected = "\n".join(["# Parameters", *(f"{name} = {value!r}" for name, value in parameters.items())])
        return shell(first, injected, *others[:last])

    return run


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
        outputs = outputs_of(path)
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


def test_warnings_of_torchao_stay_out_of_outputs():
    assert not any(logging.getLogger(name).isEnabledFor(logging.WARNING) for name in ("torchao", "torch.utils._pytree"))


# Unknown names and impossible values: the cell after the parameters raises.
REFUSED = [
    ("00_mini_models", {"retrian": True}, "Did you mean 'retrain'? Allowed are model, fact_values, retrain"),
    ("03_train", {"method": "nope"}, f"allowed are {', '.join(METHODS)}"),
    ("03_train", {"ratio": 1.7}, "ratio = 1.7"),
    ("03_train", {"model": "gpt5"}, "mini: llama3"),
    ("04_long_context", {"method": "pose"}, "method: the grid of table1 sets it"),
    ("05_resources", {"gpus": 2}, "Did you mean 'gpu'? Allowed are model, scale"),
    ("06_general_tasks", {"replay_steps": 3}, "replay_steps: the grid of"),
    ("06_general_tasks", {"targets": 2560}, "unknown parameter 'targets'"),
    ("07_ablations", {"ratio": 0.2}, "ratio: the grid of"),
    ("08_beyond_the_paper", {"loss_weight": "helm"}, "loss_weight: the grid of"),
]


@pytest.mark.parametrize(("notebook", "parameters", "message"), REFUSED)
def test_invalid_parameters_stop_the_settings_cell(notebook, parameters, message, run_cells, tmp_path):
    with pytest.raises(ParamsError, match=re.escape(message)):
        run_cells(notebook, parameters, last=1)
    assert not (tmp_path / "cache").exists()


def test_resources_that_do_not_fit_stop_the_settings_cell(run_cells):
    with pytest.raises(DoesNotFitError, match="These would fit: 4 such GPUs"):
        run_cells("05_resources", {"gpu": "RTX 4090 24 GB"}, last=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_training_that_would_take_days_is_refused(run_cells):
    # The paper's model: its shape is known without its files.
    large = {"model": "llama3", "scale": "paper", "optimizer": "adamw_bf16", "offload_activations": False}
    with pytest.raises(ValueError, match=r"training would take .* days without a GPU \(modelled\)"):
        run_cells("03_train", large, last=2)


# Other settings, to the last cell


@pytest.mark.slow
def test_method_none_is_measured_without_training(run_cells):
    space = run_cells("03_train", SHORT | {"method": "none"})
    assert not space["trained"] and list(space["numbers"]) == ["base", "RoPE rule alone"]
    assert (space["folder"] / "figures" / "recall.png").is_file()


@pytest.mark.slow
def test_chosen_stages_and_lengths_are_measured(run_cells, capsys):
    chosen = {"eval_stages": "[base, RoPE rule alone, merged]", "eval_passkeys": 5, "eval_lengths": "[128]"}
    space = run_cells(
        "03_train", SHORT | chosen | {"selection": "random", "replay_length": 64, "eval_precision": "auto"}
    )
    numbers = space["numbers"]
    assert list(numbers) == ["base", "RoPE rule alone", "merged"]
    assert [tasks["passkey"]["prompts"] for tasks in numbers["merged"]["tasks"].values()] == [3, 3, 5]
    assert list(numbers["merged"]["tasks"]) == [128, 256, 1024]
    assert set(space["trained"]) == {"extended", "replayed"}, "what is not measured is not trained"
    assert space["analysis"] is None, "only a selection by anchors needs the token analysis"
    assert set(space["figures"]) == {"recall", "retention", "passkeys", "loss_by_position"}
    gains = space["gains"].reset_index()
    assert list(gains.columns) == ["measure", "length", "gain", "low", "high", "documents"]
    assert ("passkey", 1024) in set(zip(gains["measure"], gains["length"], strict=True))
    shown = capsys.readouterr().out
    assert "LlamaForCausalLM" in shown and "1,024 tokens" in shown


@pytest.mark.slow
def test_token_analysis_by_parts_of_speech_and_log_probability(run_cells):
    space = run_cells(
        "01_token_analysis", SHORT | {"token_types": "pos", "analysis_score": "logprob", "anchor_count": 2}
    )
    assert len(space["anchors"]) == 2 and set(space["anchors"]) <= set(space["analyses"]["pos"].ranking["type"])
    assert space["n_tokens"] == 20 * 512
    assert set(space["figures"]) == {"class", "pos", "figure4", "selections"}


@pytest.mark.slow
def test_positions_of_other_settings(run_cells):
    # Short samples: of 200 tokens, and of 16 where a cell tries smaller ratios.
    space = run_cells("02_position_transform", {"target_length": 1000, "ratio": 0.2, "seed": 3, "method": "pose"})
    found = space["summaries"]
    assert list(found) == [name for name, method in METHODS.items() if method.positions]
    assert found["pose"]["visited_by_one"] == pytest.approx(0.2) and found["flt"]["visited_by_one"] == 1
    # Of 200 tokens, half of a PoSE sample is in a row.
    assert found["pose"]["contiguous_run"] == pytest.approx(100, rel=0.02)
    assert len(space["measured"]) == 5
    assert set(space["figures"]) == {"distances", "figure3", "maps"}


def test_resources_of_another_model(run_cells):
    space = run_cells("05_resources", {"model": "qwen2", "target_length": 81920, "price_per_gpu_hour": 4})
    assert space["Q"].model == "qwen2" and space["Q"].price_per_gpu_hour == 4
    assert list(space["lengths"]) == list(space["Q"].families) and len(space["claims"]) > 5


# Changes in a live kernel, as in JupyterLab

# Names that the notebooks use later, and names of settings that are not in their parameters cells.
OWN = """P = Q = R = merges = parts = shares = grid = None
foo, seconds, window, T, extend_steps = [1, 2], 3, "left", {"a": 1}, -1
lengths = {"x": 2.5}
def warmup_steps(): pass"""
# For each notebook what the user changes in the parameters cell, one run after the other, and what must then hold.
CHANGES = {
    "00_mini_models": [
        ({}, "(P.model, P.retrain, P.seed) == ('llama3', False, 0)"),
        ({"model": "qwen2", "seed": 4}, "(P.seed, folder.name, network.config.model_type) == (4, 'qwen2', 'qwen2')"),
        ({"model": "mistral"}, "network.config.model_type == 'mistral' and P.seed == 0"),
    ],
    "01_token_analysis": [
        ({}, "(P.model, P.seed, P.analysis_score) == ('llama3', 0, 'logit')"),
        ({"model": "qwen2", "analysis_score": "logprob"}, "(P.model, P.analysis_score) == ('qwen2', 'logprob')"),
        ({"seed": 5}, "(P.model, P.seed, P.analysis_score) == ('llama3', 5, 'logit')"),
    ],
    "02_position_transform": [
        ({}, "(P.target_length, P.ratio) == (4096, 0.3)"),
        ({"target_length": 1024, "ratio": 0.5}, "(P.target_length, P.train_length) == (1024, 512)"),
        ({"model": "mistral", "seed": 2}, "(P.model, P.seed, P.target_length) == ('mistral', 2, 4096)"),
    ],
    "03_train": [
        ({}, "(P.model, P.method, P.seed) == ('llama3', 'longrecipe', 0)"),
        ({"method": "pose:n_chunks=4", "seed": 3}, "(P.method, P.seed) == ('pose:n_chunks=4', 3)"),
        (
            {"model": "smollm2", "scale": "small", "profile": "cpu", "method": "flt"},
            "(P.model, P.method, P.target_length, P.extend_steps, P.warmup_steps) == ('smollm2', 'flt', 16384, 6, 2)",
        ),
    ],
    "04_long_context": [
        ({}, "len(grid) == 50"),
        (
            {"targets": [512, 1024], "n_seeds": 2},
            "{(p.target_length, p.seed) for p in grid} == {(T, s) for T in (512, 1024) for s in (0, 1)}",
        ),
        ({"model": "qwen2"}, "len(grid) == 30 and {p.model for p in grid} == {'qwen2'}"),
    ],
    "05_resources": [
        ({}, "(Q.model, Q.gpu, Q.ratio) == ('llama3', 'H100 80 GB', 0.3)"),
        (
            {"model": "qwen2", "gpu": "A100 80 GB", "method": "pose"},
            "(Q.model, Q.gpu, Q.method) == ('qwen2', gpu, 'pose')",
        ),
        (
            {"target_length": 65536, "price_per_gpu_hour": 4},
            "(Q.method, Q.target_length, Q.price_per_gpu_hour) == (method, 65536, 4)",
        ),
    ],
    "06_general_tasks": [
        ({}, "len(grid) == 25 and len(merges) == 27"),
        ({"model": "qwen2", "n_seeds": 2}, "len(grid) == 10 and {p.model for p in [*grid, *merges]} == {'qwen2'}"),
        ({"model": "mistral"}, "len(grid) == 15 and {p.target_length for p in grid} == {4096}"),
    ],
    "07_ablations": [
        ({}, "len(parts) == 21 and len(shares) == 33"),
        ({"n_seeds": 2}, "len(parts) == 14 and len(shares) == 22"),
        ({"model": "qwen2"}, "len(parts) == 21 and {p.model for p in grid} == {'qwen2'}"),
    ],
    "08_beyond_the_paper": [
        ({}, "target == 4096 and {p.seed for p in grid if p.seed > 2} == {3, 4}"),
        ({"n_seeds": 2}, "{p.seed for p in grid} == {0, 1}"),
        ({"model": "mistral"}, "{p.model for p in grid} == {'mistral'}"),
    ],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_first_cells_run_again_after_changes(path, shell):
    parameters, settings = [cell.source for cell in code_cells(path)][:2]
    shell(OWN)
    for values, holds in CHANGES[path.stem]:
        # A cell of the user's own that assigns model too, and the settings cell twice.
        shell(changed(parameters, values), settings, "x = 1; model = model; foo = [x]", settings)
        shell(f"assert {holds}\nassert foo == [1] and seconds == 3 and extend_steps == -1")


# papermill


@pytest.mark.slow
def test_papermill_stops_at_a_setting_that_does_not_exist(tmp_path, environment):
    run = papermill("03_train.ipynb", tmp_path / "out.ipynb", environment, extend_stepz=3)
    assert run.returncode == 1 and "Did you mean 'extend_steps'?" in run.stderr
    # The parameters, what papermill injected after them, and the cell that checks.
    assert len([cell for cell in code_cells(tmp_path / "out.ipynb") if cell.execution_count is not None]) == 3


@pytest.mark.slow
def test_killed_papermill_resumes_and_saves_the_whole_run(tmp_path, environment):
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
    assert re.search(r"extended .* resumed from step [2-7]\b", tables_of(tmp_path / "again.ipynb"))
    (metrics,) = (tmp_path / "cache" / "runs" / "train").glob("*/metrics.json")
    saved = store.load(metrics.parent)
    assert set(saved.tables["scores"]["stage"]) >= {"base", "extended", "replayed", "merged", "paper's setting"}
    assert set(saved.tables["scores"]["length"].dropna()) >= {256, 512, 1024} and saved.anchors
    assert list((metrics.parent / "figures").glob("*.png"))


@pytest.mark.slow
def test_missing_runs_of_a_grid_are_made_and_shown(tmp_path, environment):
    parameters = {"targets": 512, "n_seeds": 2} | {key: SHORT[key] for key in SHORT if key != "target_length"}
    grid = table1.EXPERIMENT.from_notebook({"model": "llama3", "scale": "mini"} | parameters)
    missing = [p for p in grid if p.seed == 1 and p.method in ("none", "longrecipe")]
    # The others are finished: with the scores of committed runs, under the length of this grid.
    for p, like in zip(grid, table1.EXPERIMENT.grid("llama3", seeds=(0, 1), targets=2560), strict=True):
        if p not in missing:
            tables = results.load(like, "grid").tables
            tables = {name: rows.replace({"length": {2560: 512}}) for name, rows in tables.items()}
            store.save(p, "grid", tables, seconds=1.0)
    run = papermill("04_long_context.ipynb", tmp_path / "out.ipynb", environment, **parameters)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "10 runs, 8 of them finished" in printed_by(tmp_path / "out.ipynb")
    runs = [path.parent.name for path in (tmp_path / "cache" / "runs" / "grid").glob("*/metrics.json")]
    assert len(runs) == 10 and sum("-none-512-" in name for name in runs) == 2
    made = [p for p in grid if store.load(store.run_dir(p, "grid")).seconds > 1]
    assert made == missing
    assert "NIAH(M) at T = 512: LongRecipe is at most 2 points below FLT" in tables_of(tmp_path / "out.ipynb")
