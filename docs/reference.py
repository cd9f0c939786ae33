"""Writes docs/recipes.md from the schema: every key of a recipe with its default, its type and its meaning.

python docs/reference.py
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from edcompress.core import registry
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.search import METHODS

PAGE = Path(__file__).with_name("recipes.md")
HEAD = """# Recipes

A recipe is a YAML file with what differs from the defaults. `edcompress recipes` lists the shipped ones, `edcompress check my.yaml` reports
all faults at once, and `--set key=value` overrides a key on the command line. `edcompress init` writes one for your weights and images:

```console
$ edcompress init my.yaml --weights model.pt --images photos/ --target macs=0.5
```

`edcompress check my.yaml --weights model.pt` then tries everything that is cheap (images, classes, weights, provider, target), and
shows the plan of the run: groups, steps, epochs, generations, and what time and memory to expect. `--no-timing` drops the measurement,
and `--json` is for machines.

`init` recognises networks of torchvision and timm and the CIFAR ResNets by the names and shapes of their tensors; the recipe takes the
first that fits, and lists others of the same shapes. Classes, split and sizes come from the images, and their statistics from the
library, unless others fit the network's first batch norm better. Without options it asks, or writes a template where nobody can answer;
`--all` writes every key.

```console
$ edcompress check resnet20_cifar10 --set target.macs=0.3 --set search.method=magnitude
```

Later layers override earlier ones: the defaults, the preset that the file names, the file, the preset of `--set preset=NAME`, other
`--set`. All keys are below; `docs/reference.py` writes this page from the schema.
"""


def page() -> str:
    """Return the whole page."""
    parts = [HEAD, *section("", Recipe)]
    for name, field in Recipe.model_fields.items():
        if model := section_of(field):
            parts += [
                f"\n## {name}\n",
                f"{(model.__doc__ or '').strip()}\n",
                *section(f"{name}.", model, field.default),
            ]
        if name == "search":
            parts += list(methods())
    return "\n".join(parts).rstrip() + "\n"


def section(prefix: str, model: type[BaseModel], given: Any = None) -> Iterator[str]:
    """Yield the table of the keys that are not sections; defaults come from `given`, the default section, if there is one."""
    yield "| key | default | may be | |"
    yield "| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        if section_of(field) is None:
            cells = (
                f"`{prefix}{name}`",
                default(getattr(given, name, field.default)),
                allowed(field),
                field.description or "",
            )
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def methods() -> Iterator[str]:
    """Yield the table of the search methods, from the docstrings of their modules."""
    yield "\n| `search.method` | |"
    yield "| --- | --- |"
    for name in registry.names_in(METHODS):
        about = (registry.load(METHODS, name).__doc__ or "").partition(": ")[2].strip()
        yield f"| `{name}` | {about} |"


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Return the section that a key holds, or None."""
    options = get_args(field.annotation) or (field.annotation,)
    return next((one for one in options if isinstance(one, type) and issubclass(one, BaseModel)), None)


def default(value: Any) -> str:
    """Return the default as YAML."""
    if value is PydanticUndefined:
        return "required"
    return f"`{json.dumps(value)}`" if value not in ("", ()) else "none"


def allowed(field: FieldInfo) -> str:
    """Return the names of a registry, or the type with its bounds."""
    if names := [name for one in field.metadata for name in getattr(getattr(one, "func", None), "names", ())]:
        own = any(isinstance(getattr(one, "func", None), registry.KnownNameOrPath) for one in field.metadata)
        return ", ".join([*(f"`{name}`" for name in names), *(["module:callable"] if own else [])])
    return ", ".join([kinds(field.annotation), *bounds(field.metadata)])


def kinds(annotation: Any) -> str:
    """Return the type in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{one}`" for one in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys("null" if one is type(None) else kinds(one) for one in args))
    if origin is Mapping:
        return "mapping"
    if origin is tuple:
        return f"list of {kinds(args[0])}"
    if origin is not None and hasattr(annotation, "__metadata__"):
        return ", ".join([kinds(args[0]), *bounds(annotation.__metadata__)])
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def bounds(metadata: Any) -> Iterator[str]:
    """Yield the bounds among a type's metadata."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for one in metadata:
        if isinstance(one, FieldInfo):
            yield from bounds(one.metadata)
        for key, sign in signs.items():
            if (value := getattr(one, key, None)) is not None:
                yield f"{sign} {value}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
