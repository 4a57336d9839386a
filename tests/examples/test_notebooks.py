"""Notebooks: each is its script, and runs at toy size in a kernel (``-m notebooks``)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
SENTENCE = "A neuron adds its input to its membrane and fires at the threshold. "


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small texts, which the notebooks then train on for a few steps."""
    texts = tmp_path / "texts"
    texts.mkdir()
    for number in range(60):
        (texts / f"{number:02}.txt").write_text(f"Text {number}. " + SENTENCE * 6)
    monkeypatch.setenv("NOTEBOOK_STEPS", "2")
    monkeypatch.setenv("NOTEBOOK_DATA", str(texts))
    monkeypatch.setenv("SPIKEFORMERS_CACHE", str(tmp_path / "cache"))
    return tmp_path


def cells(path: Path) -> list[tuple[str, str]]:
    """Kind and source of each cell."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    return [(cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"]]


def test_there_are_four_and_the_docs_list_them() -> None:
    assert len(SCRIPTS) == 4
    listed = (ROOT / "docs" / "examples.md").read_text()
    for script in SCRIPTS:
        assert f"`{script.stem}.ipynb`" in listed
        assert script.with_suffix(".ipynb").is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_is_its_script_without_outputs(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    expected = [
        (cell.cell_type, cell.source) for cell in jupytext.read(script, fmt="py:percent").cells
    ]
    notebook = script.with_suffix(".ipynb")
    assert cells(notebook) == expected
    for cell in json.loads(notebook.read_text())["cells"]:
        assert not cell.get("outputs")
        assert not cell.get("execution_count")


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_runs_at_toy_size(script: Path, toy: Path) -> None:
    ended = subprocess.run(
        [sys.executable, str(script)], cwd=toy, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


@pytest.mark.notebooks
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_notebook_runs_in_a_kernel(script: Path, toy: Path) -> None:
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    resources = {"metadata": {"path": str(toy)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert outputs
    assert not [out for out in outputs if out["output_type"] == "error"]
