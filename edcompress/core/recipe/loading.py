"""A checked recipe with its --set overrides; sweep variants."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

import yaml

from edcompress.core.errors import RecipeError
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.yaml_files import NOT_YAML, Tree, _flow, _load, _Loader, _merge, _with_preset, locate


def read_recipe(name: str, overrides: Sequence[str] = (), *, unsaid: Callable[[Tree], Tree] = lambda _: {}) -> Recipe:
    """The checked recipe of a path or name, with overrides such as `search.epochs=2`; RecipeError lists every fault.

    `unsaid` gives, for the file's tree, values of keys that the file may lack, where they are not the defaults.
    """
    path = locate(name)
    tree = _with_preset(_load(path), path)
    tree = _merge({"name": path.stem, **unsaid(tree)}, tree)
    command_line = _override_tree(overrides)
    tree = _merge(tree, _with_preset(command_line, Path("--set")))
    return check(tree, str(path) if not overrides else f"{path} with --set")


def variants(name: str, overrides: Sequence[str]) -> dict[str, Recipe]:
    """The checked recipes of overrides with several values, such as `target.macs=0.7,0.5`: every combination, by what is its own.

    Raises RecipeError for every fault of every combination, and where no override has several values.
    """
    choices = [_choices(override) for override in overrides]
    several = [place for place, values in enumerate(choices) if len(values) > 1]
    if not several:
        read_recipe(name, overrides)  # says what else is wrong
        raise RecipeError("--set: nothing to sweep; give a key several values, e.g. --set target.macs=0.7,0.5,0.3")
    combined = [(",".join(one[place] for place in several), one) for one in product(*choices)]
    return {label: read_recipe(name, one) for label, one in combined}


def _choices(override: str) -> list[str]:
    """The single overrides that one stands for: values are parted by commas outside brackets and quotes."""
    key, equals, text = override.partition("=")
    try:
        values = yaml.load(f"[{text}]", _Loader) if "," in text else []
    except NOT_YAML:
        values = []  # read_recipe says what is wrong with it
    if len(values) < 2:
        return [override]
    return [f"{key}{equals}{_flow(value)}" for value in values]


def _override_tree(overrides: Iterable[str]) -> Tree:
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {override}: write it as key=value, e.g. --set search.epochs=2")
        try:
            value = yaml.load(text, _Loader)
        except NOT_YAML as error:
            raise RecipeError(
                f"--set {override}: the value is not valid YAML ({getattr(error, 'problem', error)}); put text with signs of YAML in it "
                """in quotes, e.g. --set 'constraints.ignore=["*.conv1"]'"""
            ) from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return tree
