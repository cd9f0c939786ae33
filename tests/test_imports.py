"""The layers of the package, held by reading its imports: they point down, and no framework leaks out of its home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import edcompress

ROOT = Path(edcompress.__file__).parent
LAYERS = (
    ("errors", "plain_text"),
    ("digests",),
    ("team",),
    ("monitor", "files", "machine", "section", "interrupt", "ending", "transfer"),
    ("delivery",),
    ("sources", "measures"),
    ("recipe", "results"),
    ("session", "recipebook"),
    ("networks", "data"),
    ("surgery",),
    ("snapshot",),
    ("training",),
    ("search", "deploy"),
    ("points",),
    ("report",),
    ("runs",),
    ("bindings",),
    ("reports", "job", "loggers", "progress", "claims"),
    ("inspection", "origin", "onnx_files"),
    ("confirmation", "epochs"),
    ("stages",),
    ("sizing",),
    ("pruning",),
    ("trials",),
    ("pipeline",),
    ("sweeps",),
    ("display",),
    ("views", "overview", "doctor"),
    ("panels",),
    ("cli_options",),
    ("cli_observe", "cli_recipes"),
    ("cli",),
    ("__main__",),
)  # fmt: skip
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
HOMES = {
    "torch_pruning": "surgery/depgraph.py",
    "onnx": "deploy/",
    "onnxruntime": "deploy/",
    "typer": "cli",
    "timm": "networks/",
    "mlflow": "loggers.py",
    "webdataset": "data/shards.py",
    "torch.distributed": "team.py",
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def imports(file: str) -> Iterator[str]:
    """Dotted names of all that a module imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse((ROOT / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(file: str) -> str:
    """The layer's name of a file: its folder, or the file itself."""
    return file.split("/", maxsplit=1)[0].removesuffix(".py")


@pytest.mark.parametrize("file", [file for file in MODULES if file != "__init__.py"])
def test_imports_point_down(file: str) -> None:
    above = [name for name in imports(file) if name.startswith("edcompress.") and not is_below(name, part(file))]
    assert above == []


def is_below(imported: str, importer: str) -> bool:
    name = imported.split(".")[1]
    return name == importer or HEIGHT[name] < HEIGHT[importer]


def test_every_part_of_the_package_has_its_layer() -> None:
    assert {part(file) for file in MODULES} - {"__init__"} == set(HEIGHT)


@pytest.mark.parametrize("framework", HOMES)
def test_a_framework_stays_in_its_home(framework: str) -> None:
    users = [file for file in MODULES if any(f"{name}.".startswith(f"{framework}.") for name in imports(file))]
    assert users
    assert [file for file in users if not file.startswith(HOMES[framework])] == []


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert [file for file in MODULES if Path(file).stem in ("utils", "util", "helpers", "common", "misc")] == []
