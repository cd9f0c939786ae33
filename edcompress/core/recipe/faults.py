"""Validation errors of a recipe as readable lines."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edcompress.core.errors import RecipeError
from edcompress.core.plain_text import did_you_mean, short_repr
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.yaml_files import Tree


def check(tree: Tree, source: str) -> Recipe:
    """Validate a tree of plain values as a recipe.

    Args:
        tree: The values by section and key.
        source: Where they come from, for the message.

    Raises:
        RecipeError: The tree is not valid; each fault is one line, `source: dotted.key: what is wrong (got ...)`.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source}: {_fault(detail)}" for detail in error.errors(include_url=False)]
        raise RecipeError("\n".join(lines)) from None


def _fault(detail: ErrorDetails) -> str:
    parts = (str(part) for part in detail["loc"])
    key = ".".join(part if part.isprintable() else repr(part) for part in parts) or "recipe"
    if detail["type"] == "extra_forbidden":
        section = _section_at(detail["loc"][:-1])
        near = did_you_mean(str(detail["loc"][-1]), section.model_fields if section else ())
        return f"{key}: unknown key{near} (got {short_repr(detail['input'])})"
    if detail["type"] == "missing":
        return f"{key}: required, but missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {short_repr(detail['input'])})"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the section of the schema at a location of dotted keys, or None."""
    section: type[BaseModel] = Recipe
    for part in location:
        found = _model_in(section.model_fields[str(part)].annotation) if str(part) in section.model_fields else None
        if found is None:
            return None
        section = found
    return section


def _model_in(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
