"""Writes docs/architecture.svg, the map of the packages, and docs/modules.md, all modules: both from the code's imports and docstrings.

python docs/architecture.py
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1] / "edcompress"
MAP = Path(__file__).with_suffix(".svg")
PAGE = Path(__file__).with_name("modules.md")

WIDTH, GAP, MARGIN, LINE, PADDING = 1100, 24, 20, 15, 12
ROW_GAP, LANES, LANE = 44, 90, 22
CHARACTER = 6.7
"""Width of a monospaced character of 11 px."""

STYLE = """
  .box { fill: #e6f4f1; stroke: #00796b; } .name { font: bold 14px sans-serif; fill: #00493f; }
  .about { font: 12px sans-serif; fill: #333; } .modules { font: 11px monospace; fill: #333; }
  .arrow { stroke: #888; stroke-width: 1.5; fill: none; } .head { fill: #888; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #16302c; stroke: #4db6ac; } .name { fill: #b2dfdb; } .about, .modules { fill: #ddd; }
    .arrow { stroke: #aaa; } .head { fill: #aaa; }
  }
"""
HEAD = """# All modules

Written by `docs/architecture.py` from the code: every package from the top layer to the bottom, every module with the first sentence of its
docstring. The map is in [architecture](architecture.md).

## Who imports whom

A mark: the row's package imports the column's package. All imports point to a lower layer; packages on the same layer do not import each
other.
"""


def main() -> None:
    """Write both files."""
    MAP.write_text(svg(), encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


@cache
def imports() -> frozenset[tuple[str, str]]:
    """Return all pairs of a package and another one that it imports."""
    return frozenset(
        (path.relative_to(ROOT).parts[0], imported)
        for path in ROOT.glob("*/**/*.py")
        for imported in imported_packages(path)
        if imported != path.relative_to(ROOT).parts[0]
    )


def imported_packages(path: Path) -> Iterator[str]:
    """Yield the package of each import of edcompress; `edcompress.VERB` counts as an import of the verb's package."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("edcompress."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "edcompress":
            yield from public_homes().get(node.attr, ())


@cache
def public_homes() -> dict[str, tuple[str]]:
    """Return the package of each public name of `import edcompress`, in a tuple."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    return {
        alias.name: (node.module.split(".")[1],)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("edcompress.")
        for alias in node.names
    }


@cache
def height(package: str) -> int:
    """Return the layer of a package: 0 if it imports none, else one above the highest package that it imports."""
    return 1 + max((height(imported) for importer, imported in imports() if importer == package), default=-1)


def layers() -> list[list[str]]:
    """Return the packages by layer, the top layer first."""
    packages = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
    return [[name for name in packages if height(name) == layer] for layer in range(max(map(height, packages)), -1, -1)]


def direct() -> list[tuple[str, str]]:
    """Return the imports between packages that no longer path implies."""
    return sorted(
        (importer, imported)
        for importer, imported in imports()
        if not any(between != imported and reaches(between, imported) for between in imported_by(importer))
    )


def imported_by(package: str) -> set[str]:
    """Return the packages that a package imports."""
    return {imported for importer, imported in imports() if importer == package}


@cache
def reaches(package: str, target: str) -> bool:
    """Return whether a package imports the target, directly or through others."""
    return any(imported == target or reaches(imported, target) for imported in imported_by(package))


def summary(path: Path) -> str:
    """Return the first sentence of a module's docstring."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"\.\s", " ".join(doc.split("\n\n")[0].split()))[0].removesuffix(".")


def modules(folder: Path) -> list[Path]:
    """Return the modules of a folder without its `__init__`, sorted."""
    return sorted(path for path in folder.glob("*.py") if path.stem != "__init__")


def folders(package: str) -> list[Path]:
    """Return a package's folder and all folders of modules below it, sorted."""
    return sorted({path.parent for path in (ROOT / package).rglob("__init__.py")})


# ---------------------------------------------------------------------------------------------------------------- the map


def svg() -> str:
    """Return the map: a row of boxes per layer, an arrow per direct import."""
    boxes, bottom = places()
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom}" width="{WIDTH}" height="{bottom}" role="img">',
        "<title>The packages of edcompress by layer; an arrow leads from a package to one that it imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path class="head" d="M0,0 L8,4 L0,8 Z"/></marker></defs>',
        *arrows(boxes),
        *(box(name, place) for name, place in boxes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Place:
    """A box of the map: its rectangle and its lines of text."""

    x: float
    y: float
    width: float
    height: float
    lines: tuple[str, ...]

    @property
    def centre(self) -> float:
        return self.x + self.width / 2

    @property
    def end(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


def places() -> tuple[dict[str, Place], int]:
    """Return the box of each package and the height of the map; single boxes leave lanes for arrows on both sides."""
    boxes, y = {}, MARGIN
    for row in layers():
        edge = MARGIN + (LANES if len(row) == 1 and y > MARGIN else 0)
        width = (WIDTH - 2 * edge - GAP * (len(row) - 1)) / len(row)
        texts = {name: box_text(name, width) for name in row}
        height = 2 * PADDING + 18 + LINE * max(map(len, texts.values()))
        for column, name in enumerate(row):
            boxes[name] = Place(edge + column * (width + GAP), y, width, height, tuple(texts[name]))
        y += height + ROW_GAP
    return boxes, y - ROW_GAP + MARGIN


def box_text(package: str, width: float) -> list[str]:
    """Return the lines of a box: what the package is, and its modules by folder."""
    columns = int((width - 2 * PADDING) / CHARACTER)
    lines = textwrap.wrap(summary(ROOT / package / "__init__.py").replace("`", ""), int(columns * 1.05))
    for folder in folders(package):
        names = " ".join(path.stem for path in modules(folder))
        label = "" if folder.name == package else f"{folder.relative_to(ROOT / package).as_posix()}/ "
        lines += ["\t" + line for line in textwrap.wrap(label + names, columns, break_on_hyphens=False)]
    return lines


def box(name: str, place: Place) -> str:
    """Return the drawing of a package's box."""
    x = place.x + PADDING
    parts = [
        f'<rect class="box" x="{place.x:.1f}" y="{place.y:.1f}" width="{place.width:.1f}" height="{place.height:.1f}" rx="6"/>',
        f'<text class="name" x="{x:.1f}" y="{place.y + PADDING + 10:.1f}">{name}</text>',
    ]
    for number, line in enumerate(place.lines):
        kind = "modules" if line.startswith("\t") else "about"
        top = place.y + PADDING + 28 + number * LINE
        parts.append(f'<text class="{kind}" x="{x:.1f}" y="{top:.1f}">{escape(line.strip())}</text>')
    return "\n".join(parts)


def arrows(boxes: dict[str, Place]) -> Iterator[str]:
    """Yield an arrow per direct import: straight to the next layer, through a lane beside the boxes to a lower one."""
    used = {"left": 0, "right": 0}
    for importer, imported in sorted(direct(), key=lambda pair: (height(pair[0]), pair)):
        start, end = boxes[importer], boxes[imported]
        if height(importer) - height(imported) == 1:
            yield path(straight(start, end))
        else:
            side = "left" if end.centre < WIDTH / 2 else "right"
            used[side] += 1
            yield path(around(start, end, side, used[side]))


def straight(start: Place, end: Place) -> list[tuple[float, float]]:
    """Return the points of an arrow from the bottom of a box down to the top of another."""
    x = (max(start.x, end.x) + min(start.end, end.end)) / 2
    return [(x, start.bottom), (x, end.y)]


def around(start: Place, end: Place, side: str, lane: int) -> list[tuple[float, float]]:
    """Return the points of an arrow from the side of a box through a lane to the top of another."""
    edge, away = (start.x, -1) if side == "left" else (start.end, 1)
    x, y = edge + away * LANE * lane, start.y + start.height / 2 + 8 * (lane - 1)
    turn, target = end.y - 10 - 8 * lane, end.centre + away * 8 * lane
    return [(edge, y), (x, y), (x, turn), (target, turn), (target, end.y)]


def path(points: list[tuple[float, float]]) -> str:
    """Return the drawing of an arrow."""
    line = " L".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<path class="arrow" d="M{line}" marker-end="url(#head)"/>'


# --------------------------------------------------------------------------------------------------------------- the page


def page() -> str:
    """Return docs/modules.md."""
    order = [name for layer in layers() for name in layer]
    parts = [HEAD, *matrix(order)]
    for package in order:
        parts += ["", f"## {package}", "", f"{summary(ROOT / package / '__init__.py')}."]
        for folder in folders(package):
            parts += section(package, folder)
    return "\n".join(parts) + "\n"


def matrix(order: list[str]) -> list[str]:
    """Return the table of imports between packages."""
    rows = [f"| | {' | '.join(order)} |", "| --- " * (len(order) + 1) + "|"]
    for importer in order:
        cells = ["x" if (importer, imported) in imports() else "" for imported in order]
        rows.append(f"| **{importer}** | {' | '.join(cells)} |")
    return rows


def section(package: str, folder: Path) -> list[str]:
    """Return the table of the modules of one folder."""
    found = modules(folder)
    if not found:
        return []
    name = folder.relative_to(ROOT).as_posix()
    title = [] if name == package else ["", f"### {name}", "", f"{summary(folder / '__init__.py')}."]
    rows = [f"| `{path.name}` | {summary(path).replace('|', '/')} |" for path in found]
    return [*title, "", "| module | what is in it |", "| --- | --- |", *rows]


if __name__ == "__main__":
    main()
