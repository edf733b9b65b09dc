"""Take progress bars, stderr and run metadata out of notebooks before a commit: `strip_progress.py FILE...`

The seconds of papermill's run stay, as `longrecipe.seconds`; tests compare the stated run time with them.
"""

import sys
from pathlib import Path

import nbformat


def strip(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what no reader needs and no rerun repeats: stderr, widgets, papermill's metadata except its seconds."""
    notebook.metadata.pop("widgets", None)
    papermill = notebook.metadata.pop("papermill", {})
    if papermill.get("duration"):
        notebook.metadata["longrecipe"] = {"seconds": round(papermill["duration"])}
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_progress(output)]
    return notebook


def _is_progress(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name == "stderr"
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        nbformat.write(strip(nbformat.read(path, as_version=4)), path)
