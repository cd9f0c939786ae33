"""The layers of the package, held by reading its imports: they point down, and no framework leaks out of its home."""

import ast
from functools import cache
from pathlib import Path

import pytest

import edcompress

ROOT = Path(edcompress.__file__).parent
LAYERS = (
    ("core",),
    ("networks", "data", "runs", "report"),
    ("training",),
    ("pruning",),
    ("deploy",),
    ("workflows",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
HOMES = {
    "torch_pruning": "pruning/tracing/depgraph.py",
    "onnx": "deploy/",
    "onnxruntime": "deploy/",
    "typer": "cli/",
    "timm": "networks/",
    "huggingface_hub": ("networks/hub_files.py", "data/hf_private.py"),
    "mlflow": "runs/trackers/",
    "webdataset": "data/tar_shards.py",
    "datasets": "data/hf_",
    "torch.distributed": "core/system/distributed.py",
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@cache
def tree(file: str) -> ast.Module:
    """A module as it is written."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


@cache
def imports(file: str) -> tuple[str, ...]:
    """Dotted names of all that a module imports, at its top or inside its functions."""
    names: list[str] = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names.extend(f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(names)


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


def test_the_package_has_at_most_ten_rooms() -> None:
    rooms = {path.name for path in ROOT.iterdir()} - {
        "__pycache__",
        "__init__.py",
        "__main__.py",
        "py.typed",
        "recipes",
    }
    assert rooms == set(HEIGHT) - {"__main__"}
    assert len(rooms) <= 10


def test_tests_mirror_the_package() -> None:
    tests = Path(__file__).parent
    packages = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py")}
    beside = {"integration", "faults", "hostile"}  # whole runs, and what goes wrong around them
    folders = {path.parent.relative_to(tests).as_posix() for path in tests.rglob("test_*.py")} - {"."}
    assert folders - beside <= packages


@pytest.mark.parametrize("framework", HOMES)
def test_a_framework_stays_in_its_home(framework: str) -> None:
    users = [file for file in MODULES if any(f"{name}.".startswith(f"{framework}.") for name in imports(file))]
    assert users
    assert [file for file in users if not file.startswith(HOMES[framework])] == []


def test_there_is_no_drawer_for_odds_and_ends() -> None:
    assert [file for file in MODULES if Path(file).stem in ("utils", "util", "helpers", "common", "misc")] == []


def modules_given(whole: str) -> list[str]:
    """The modules with a function that has a parameter annotated with the class `whole`."""
    return [file for file in MODULES if whole in parameter_classes(tree(file))]


def parameter_classes(module: ast.Module) -> set[str]:
    """The names in the annotations of all parameters in a module."""
    functions = (node for node in ast.walk(module) if isinstance(node, ast.FunctionDef))
    parameters = (one for f in functions for one in (*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs))
    annotations = (one.annotation for one in parameters if one.annotation is not None)
    return {name.id for annotation in annotations for name in ast.walk(annotation) if isinstance(name, ast.Name)}


@pytest.mark.parametrize(("whole", "most"), [("Recipe", 16), ("RunFolder", 12), ("RunOptions", 12)])
def test_few_modules_are_given_a_whole_recipe_run_folder_or_options(whole: str, most: int) -> None:
    """Functions take the section or value that they need; where one takes the whole, its needs cannot be read off its signature."""
    assert len(modules_given(whole)) <= most, modules_given(whole)


def test_the_count_of_wholes_sees_what_it_counts() -> None:
    source = ast.parse(
        "def one(a: int, *, recipe: Recipe | None) -> Recipe: ...\ndef other(folders: list[RunFolder]) -> None: ..."
    )
    assert parameter_classes(source) >= {"Recipe", "RunFolder"}
    assert "Recipe" not in parameter_classes(ast.parse("def made() -> Recipe: ..."))
