"""Validation errors of a recipe as readable lines."""

from __future__ import annotations

import types
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from edcompress.core.errors import RecipeError
from edcompress.core.plain_text import did_you_mean, same_meaning, short_repr
from edcompress.core.recipe.plain_faults import plain_message
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
    key = dotted(detail["loc"])
    if detail["type"] == "missing":
        return f"{key}: {plain_message(detail)}"
    got = f" (got {short_repr(detail['input'])})"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key{_near_key(detail['loc'])}{got}"
    return f"{key}: {plain_message(detail, _field_at(detail['loc']))}{got}"


def dotted(location: tuple[int | str, ...]) -> str:
    """Return a location as a dotted key; parts that cannot be printed are quoted."""
    parts = (str(part) for part in location)
    return ".".join(part if part.isprintable() else repr(part) for part in parts) or "recipe"


def _near_key(location: tuple[int | str, ...]) -> str:
    """Return the hint for an unknown key: one with the same meaning here, the same key elsewhere, or one that is spelled alike here."""
    name, section = str(location[-1]), _section_at(location[:-1])
    here = tuple(section.model_fields) if section else ()
    if not same_meaning(name, here) and (elsewhere := _elsewhere(name)):
        return f"; did you mean {' or '.join(map(repr, elsewhere))}?"
    return did_you_mean(name, here)


def _elsewhere(name: str) -> list[str]:
    """Return the dotted keys of all sections that mean the same as `name`, at most three."""
    sections = {key: _model_in(field.annotation) for key, field in Recipe.model_fields.items()}
    known = {key: tuple(section.model_fields) for key, section in sections.items() if section}
    found = [f"{section}.{key}" for section, keys in known.items() for key in same_meaning(name, keys)]
    return [*same_meaning(name, Recipe.model_fields), *found][:3]


def _field_at(location: tuple[int | str, ...]) -> FieldInfo | None:
    """Return the field of the schema at a location, or whose list holds it; None where the schema has none."""
    while location and isinstance(location[-1], int):
        location = location[:-1]
    section = _section_at(location[:-1])
    return section.model_fields.get(str(location[-1])) if section and location else None


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
