"""The private parts of other libraries that the package relies on are listed in one place, and used in few."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import edcompress

ROOT = Path(edcompress.__file__).parent
PAGE = Path(__file__).parent.parent / "docs" / "private-parts.md"
PUBLIC = {"_asdict", "_replace", "_fields", "_exit"}
"""Names with an underscore that Python's documentation promises."""


def private_names(file: Path) -> Iterator[str]:
    """Names with a leading underscore that a module takes from others: attributes of what is not its own, and imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not (
            isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        ):
            yield from {node.attr} - own
        elif isinstance(node, ast.ImportFrom):
            yield from (part for part in (node.module or "").split("."))
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


def uses() -> set[tuple[str, str]]:
    return {
        (file.relative_to(ROOT).as_posix(), name)
        for file in ROOT.rglob("*.py")
        for name in private_names(file)
        if name.startswith("_") and not name.startswith("__") and name not in PUBLIC
    }


def listed() -> set[tuple[str, str]]:
    """Each module of the page's table with each private name of its row."""
    rows = re.findall(r"^\| .* \| .* \| (.*) \| (.*) \| .* \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {
        (file, name)
        for what, where in rows
        for file in re.findall(r"`(\S+\.py)`", where)
        for name in re.findall(r"\b_\w+", what)
    }


def test_every_private_part_in_use_is_listed_with_its_module() -> None:
    assert uses() - listed() == set()


def test_every_private_part_that_is_listed_stands_in_its_module() -> None:
    files = {file: (ROOT / file).read_text(encoding="utf-8") for file, _ in listed()}
    somewhere = {name for file, name in listed() if name in files[file]}
    assert files
    assert {name for _, name in listed()} - somewhere == set()


def test_no_private_name_of_our_own_is_used_in_another_module() -> None:
    """They would be found as foreign ones above; this says it of imports, and by name."""
    imports = re.compile(r"^\s*from edcompress\.\S+ import .*\b_[a-z]", re.MULTILINE)
    assert [str(file) for file in ROOT.rglob("*.py") if imports.search(file.read_text(encoding="utf-8"))] == []
