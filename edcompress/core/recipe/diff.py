"""Which keys differ between two recipes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.yaml_files import Tree


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Return the dotted keys in which two recipes differ, whatever the reasons for their values."""
    return changed_keys(*(recipe.model_dump(mode="json", exclude={"chosen"}) for recipe in (one, other)))


def changed_keys(one: Tree, other: Tree) -> list[str]:
    """Return the dotted keys in which two trees of plain values differ, sorted."""
    return [key for key, _, _ in changes(one, other)]


def changes(one: Tree, other: Tree) -> list[tuple[str, Any, Any]]:
    """Return the dotted keys in which two trees of plain values differ, sorted, each with both values.

    A key that only one tree has is not compared: the other tree was written before the key existed.
    """
    return sorted(_changed(one, other, ()), key=lambda change: change[0])


def _changed(one: Any, other: Any, path: tuple[str, ...]) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() & other.keys():
            yield from _changed(one[key], other[key], (*path, str(key)))
    elif one != other:
        yield ".".join(path), one, other
