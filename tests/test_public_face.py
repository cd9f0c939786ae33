"""What `import edcompress` shows: to a type checker, to an editor and at run time."""

import inspect
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import edcompress

NAMES = [*edcompress.__all__, "__version__"]

CONFIGURATION = """
[mypy]
ignore_missing_imports = True
follow_imports = silent
[mypy-torch.*,torchvision.*,torch_pruning.*,numpy.*,onnx.*,onnxscript.*,onnxruntime.*,timm.*,PIL.*,mlflow.*,tensorboard.*,scipy.*]
follow_imports = skip
[mypy-torch.nn,torch.nn.modules,torch.nn.modules.module]
follow_imports = silent
"""
"""Of the large libraries only the class of networks is read, which takes seconds in place of half a minute."""


@pytest.fixture(scope="module")
def revealed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The type that mypy reveals for each public name."""
    folder = tmp_path_factory.mktemp("mypy")
    (folder / "mypy.ini").write_text(CONFIGURATION)
    lines = [f"reveal_type(edcompress.{name})" for name in NAMES]
    (folder / "snippet.py").write_text("\n".join(["import edcompress", *lines]) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "snippet.py"]
    (folder / "edcompress").symlink_to(Path(edcompress.__file__).parent)  # installed or a checkout
    done = subprocess.run(command, cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r'snippet\.py:(\d+): note: Revealed type is "(.*)"', done.stdout)
    return {NAMES[int(line) - 2]: kind for line, kind in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_type_checker_knows_every_public_name(revealed: dict[str, str], name: str) -> None:
    assert not re.search(r"\bAny\b", revealed[name]), revealed[name]


def test_functions_return_what_they_measured(revealed: dict[str, str]) -> None:
    assert revealed["__version__"] == "str"
    assert revealed["load"].endswith("-> torch.nn.modules.module.Module")
    assert revealed["read_recipe"].startswith("def (name: str | pathlib.Path, ")
    assert revealed["read_recipe"].endswith("-> edcompress.core.recipe.recipe.Recipe")
    for name, result in {"export": "report.Report", "gate": "verdict.Verdict"}.items():
        assert revealed[name].endswith(f"-> edcompress.core.results.{result}")


def test_prune_and_inspect_have_types_for_files_and_for_objects(revealed: dict[str, str]) -> None:
    prune, inspected = revealed["prune"], revealed["inspect"]
    of_files, of_objects = prune.removeprefix("Overload(").removesuffix(")").split(", def (", 1)
    assert of_files.startswith("def (weights: ")
    assert "recipe: edcompress.core.recipe.recipe.Recipe" in of_files
    assert of_files.endswith("-> edcompress.core.results.report.Report")
    assert of_objects.startswith("torch.nn.modules.module.Module, ")
    assert of_objects.endswith("-> edcompress.workflows.prune_result.PruneResult")
    assert inspected.count("-> edcompress.core.results.inspection.Inspection") == 2


@pytest.mark.parametrize("name", edcompress.__all__)
def test_every_public_name_is_there_with_its_docstring(name: str) -> None:
    assert name in dir(edcompress)
    assert inspect.getdoc(getattr(edcompress, name))


def test_the_version_is_that_of_the_package() -> None:
    assert edcompress.__version__ == version("edcompress")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edcompress' has no attribute 'prun'"):
        edcompress.prun  # noqa: B018
