"""Notebooks in a live kernel, as in JupyterLab: the first cells run again and again, with changes in between."""

import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
# Names that the notebooks use later, and names of settings that are not in their parameters cells.
OWN = """P = Q = R = front = parts = shares = grid = None
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
        ({}, "len(grid) == 25 and len(front) == 27"),
        ({"model": "qwen2", "n_seeds": 2}, "len(grid) == 10 and {p.model for p in [*grid, *front]} == {'qwen2'}"),
        ({"model": "mistral"}, "len(grid) == 15 and {p.target_length for p in grid} == {4096}"),
    ],
    "07_ablations": [
        ({}, "len(parts) == 21 and len(shares) == 33"),
        ({"n_seeds": 2}, "len(parts) == 14 and len(shares) == 22"),
        ({"model": "qwen2"}, "len(parts) == 21 and {p.model for p in grid} == {'qwen2'}"),
    ],
}


def changed(source: str, values: dict) -> str:
    for name, value in values.items():
        source, count = re.subn(rf"^{name} = .*?(  #|$)", rf"{name} = {value!r}\1", source, flags=re.M)
        assert count == 1, name
    return source


def test_the_first_cells_of_every_notebook_run_again_after_changes():
    assert set(CHANGES) == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    sources = []
    for name, runs in CHANGES.items():
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        parameters, settings = [cell.source for cell in cells if cell.cell_type == "code"][:2]
        # Another notebook's kernel: no variables.
        sources += ["%reset -f", OWN]
        for values, holds in runs:
            # A cell of the user's own that assigns model too, and the settings cell twice.
            sources += [changed(parameters, values), settings, "x = 1; model = model; foo = [x]", settings]
            sources += [f"assert {holds}, {name!r}\nassert foo == [1] and seconds == 3 and extend_steps == -1"]
    # One kernel serves them all, as most of the time goes to its imports.
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(ROOT))
