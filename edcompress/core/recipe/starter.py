"""The commented recipe file that `edcompress init` writes."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edcompress.core.errors import RecipeError
from edcompress.core.plain_text import one_line, short_repr
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.yaml_files import NOT_YAML, Tree, parse, read_text, to_line


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


def with_comments(head: str, tree: Tree, comments: Mapping[str, str], source: str) -> str:
    """Return a checked recipe as text, with a comment at its head and one after those keys that have one.

    Args:
        head: The comment at the head.
        tree: The values by section and key.
        comments: Comments by dotted key.
        source: The file, for messages.

    Raises:
        RecipeError: The values are not a valid recipe.
    """
    check(tree, source)
    lines = [f"# {one_line(head)}"]
    for section, value in tree.items():
        if isinstance(value, Mapping) and any(comment.startswith(f"{section}.") for comment in comments):
            lines.append(f"{section}:")
            lines += [_line(f"  {key}", inner, comments.get(f"{section}.{key}")) for key, inner in value.items()]
        else:
            lines.append(_line(section, value, comments.get(section)))
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str | None) -> str:
    return f"{key}: {to_line(value)}" + (f"  # {one_line(comment)}" if comment else "")


def target_tree(text: str) -> Tree:
    """Return the target section that "macs=0.5" stands for.

    Raises:
        RecipeError: It is not written as key=value, or no such target exists.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--target {text}: write it as key=value, e.g. --target macs=0.5")
    try:
        tree = {key.strip(): parse(value)}
    except NOT_YAML as error:
        raise RecipeError(f"--target {text}: {short_repr(value)} is not a number; write e.g. macs=0.5") from error
    check({**_ANY, "target": tree}, "--target")
    return tree


_ANY: Tree = {"model": {"arch": "resnet20", "num_classes": 10}, "data": {"dataset": "cifar10", "image_size": 32}}
"""The sections that a recipe needs beside its target."""


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
