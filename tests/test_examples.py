"""The examples run as they stand: three scripts and a notebook."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOK = EXAMPLES / "notebook.ipynb"
SCRIPTS = {"own_network": "gate ", "own_loss": "least recall: ", "segmentation": "gate "}
"""Scripts, with what the last of their lines begins with."""


def run(folder: Path, *arguments: object) -> str:
    """Run Python in a folder, and return what it printed; fail with its errors."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.integration
@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_prune_their_network(name: str, tmp_path: Path) -> None:
    said = run(tmp_path, EXAMPLES / f"{name}.py", "run").strip().splitlines()
    assert said[-1].startswith(SCRIPTS[name])
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["pruned"]["size"]["macs"] <= 0.6 * report["dense"]["size"]["macs"]
    score = report["pruned"].get("score") or {}
    top1 = (report["pruned"]["accuracy"] or {}).get("top1", {"correct": 0, "total": 1})
    assert max(score.get("value", 0) if score else 0, top1["correct"] / top1["total"]) > 0.6


@pytest.mark.integration
def test_the_notebook_runs_cell_by_cell(tmp_path: Path) -> None:
    """Without a kernel, as notebooks are not among what edcompress needs; a last line that is an expression is shown as there."""
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    program = [f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})", *map(_as_statements, cells)]
    (tmp_path / "cells.py").write_text("\n".join(program))
    said = run(tmp_path, "cells.py")
    assert said.count('<div class="edcompress">') == 2
    assert re.search(r"gate (passed|FAILED)", said)
    assert (tmp_path / "runs" / "notebook" / "pruned.int8.onnx").exists()


def _as_statements(cell: dict[str, list[str]]) -> str:
    source = "".join(cell["source"])
    last = ast.parse(source).body[-1]
    shown = isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call)
    if not shown and source.splitlines()[-1] != "result.refreshed()":
        return source
    return "\n".join([*source.splitlines()[:-1], f"print({source.splitlines()[-1]}._repr_html_())"])


def test_the_notebook_is_valid_and_has_no_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {cell["cell_type"] for cell in notebook["cells"]} == {"markdown", "code"}
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])


def test_the_notebook_passes_its_schema() -> None:
    nbformat = pytest.importorskip("nbformat")
    assert list(nbformat.validator.iter_validate(nbformat.read(NOTEBOOK, as_version=4))) == []


@pytest.mark.integration
def test_the_notebook_runs_in_a_kernel(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for path in EXAMPLES.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    assert len(pages) == 2
    assert "edcompress" in pages[0]
    assert any("text/plain" in output.get("data", {}) for output in outputs)
