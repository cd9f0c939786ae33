"""`python -O` removes asserts and changes nothing: those of the package only narrow a type for the type checker."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import edcompress

ROOT = Path(edcompress.__file__).parent
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def narrows(test: ast.expr) -> bool:
    """Whether a condition is `isinstance(x, T)` or `x is not None`, or names an optional value."""
    match test:
        case ast.Call(func=ast.Name(id="isinstance")):
            return True
        case ast.Compare(ops=[ast.IsNot()], comparators=[ast.Constant(value=None)]):
            return True
        case ast.Name() | ast.Attribute():
            return True
    return False


@pytest.mark.parametrize("file", MODULES)
def test_an_assert_only_narrows_a_type(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    asserts = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    assert [f"{file}:{node.lineno}: {ast.unparse(node)}" for node in asserts if not narrows(node.test)] == []


PROGRAM = """
import sys
from pathlib import Path

import torch
from torch import nn

from edcompress.core.errors import CheckpointError, RecipeError, WeightsError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.system.tensor_files import load_checkpoint, read_metadata, save_checkpoint, save_tensors
from edcompress.networks.load_weights import load_into

def refused(error, function, *arguments, **options):
    try:
        function(*arguments, **options)
    except error as found:
        print(type(found).__name__)
    else:
        print("accepted")

refused(RecipeError, read_recipe, "digits", ["data.batch_size=1"])
refused(WeightsError, load_into, nn.Linear(2, 3), {"weight": torch.ones(3, 2)}, source="w.pt")
save_tensors(Path("w.safetensors"), {"w": torch.ones(2)}, {"b": "2", "a": "1"})
print(sorted(read_metadata(Path("w.safetensors")).items()))
save_checkpoint(Path("c.safetensors"), {"step": 3})
print(load_checkpoint(Path("c.safetensors")))
refused(CheckpointError, load_checkpoint, Path("w.safetensors"))
"""


@pytest.mark.integration
@pytest.mark.parametrize("options", [[], ["-O"]], ids=["plain", "optimised"])
def test_errors_are_raised_with_and_without_asserts(tmp_path: Path, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *options, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "RecipeError", "WeightsError", "[('a', '1'), ('b', '2')]", "{'step': 3}", "CheckpointError",
    ]  # fmt: skip
