"""The notebook runs from top to bottom, and its committed outputs are small, whole and of no particular machine."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "quickstart.ipynb"
FIGURES = 3


def outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def check_outputs(notebook: dict[str, Any]) -> None:
    made = outputs(notebook)
    assert all(output["output_type"] != "error" for output in made)
    assert sum("image/png" in output.get("data", {}) for output in made) == FIGURES
    text = "".join("".join(output.get("text", "")) for output in made)
    assert "1200 pairs, 1000 test images, 10 classes" in text
    assert not any("text/html" in output.get("data", {}) for output in made)  # progress is plain lines


def test_committed_outputs_are_whole_and_small() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    check_outputs(notebook)
    assert NOTEBOOK.stat().st_size < 400_000
    assert "Warning" not in str(outputs(notebook))


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path: Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    check_outputs(notebook)
