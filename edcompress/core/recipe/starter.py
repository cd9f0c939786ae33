"""The commented recipe file that `edcompress init` writes."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path

from pydantic import BaseModel

from edcompress.core.recipe.faults import check
from edcompress.core.recipe.yaml_files import Tree, read_text, to_line


def headline(path: Path) -> str:
    """Return the comment at the head of a recipe file, as one paragraph."""
    lines = read_text(path).splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def starter(path: Path) -> str:
    """Return the text of a new recipe at `path`: every key with its default, and its description as a comment."""
    lines = ["# Every key with its default; delete what you do not change. `edcompress check FILE` checks it."]
    filled = check({"name": path.stem.lstrip(".") or "recipe", "model": {"arch": "resnet18", "num_classes": 10},
                    "data": {"dataset": "image_folder", "image_size": 224, "resize": 256, "folder": "my_images",
                             "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "augment": "resized_crop"},
                    "target": {"macs": 0.5}}, str(path))  # fmt: skip
    _describe(filled, filled.model_dump(mode="json", exclude={"chosen"}), 0, lines)
    return "\n".join(lines) + "\n"


def _describe(section: BaseModel, values: Tree, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    for name, field in type(section).model_fields.items():
        if name not in values:
            continue
        value, child = values[name], getattr(section, name)
        if isinstance(child, BaseModel):
            lines += ["", f"{pad}{name}:"]
            _describe(child, value, depth + 1, lines)
        else:
            lines.append(f"{pad}{name}: {to_line(value)}" + (f"  # {field.description}" if field.description else ""))
