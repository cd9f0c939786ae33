"""A checked recipe with its --set overrides; sweep variants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

from edcompress.core.errors import RecipeError
from edcompress.core.recipe.dataset_facts import is_in_files
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.weights_name import NOTHING, Offer, Values, fill, offer_of
from edcompress.core.recipe.yaml_files import (
    NOT_YAML,
    Tree,
    locate,
    merge,
    parse,
    parse_file,
    shipped,
    to_line,
    with_preset,
)

CHANGED_DEFAULTS = ("data.crop_scale", "data.exif_orientation")
"""Keys whose defaults are not what runs had that were started before there were such keys."""


def read_recipe(name: str | Path, overrides: Sequence[str] = (), weights: str | Path | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        name: The path of a YAML file, or the name of a shipped recipe, such as "resnet20_cifar10".
        overrides: Values for single keys, each written as on the command line after --set: "search.epochs=2".
        weights: Weights by name, such as "timm:resnet50.a1_in1k", whose network, number of classes and preprocessing fill keys that are
            not set.

    Returns:
        The recipe with its preset and overrides resolved, and defaults for all other keys. Paths of data that lie in the folder of the
        file, or in the working directory for a shipped recipe, are absolute.

    Raises:
        RecipeError: The recipe does not exist or is not valid; the message lists every fault with its key.
        WeightsError: The name of the weights is unknown, or its source cannot be asked.
    """
    return _read(name, overrides, offer_of(weights))


def read_saved_recipe(path: Path) -> Recipe:
    """Read the recipe of a run folder; keys that did not exist when it was written have the values that the run used.

    Raises:
        RecipeError: The file does not exist or is not a valid recipe.
    """
    path = locate(path)
    tree = with_preset(parse_file(path), path)
    return _checked(merge(_earlier_defaults(tree), tree), path, ())


def variants(name: str | Path, overrides: Sequence[str], weights: str | Path | None = None) -> dict[str, Recipe]:
    """Read the recipes of a sweep.

    Args:
        name: A recipe, as for `read_recipe`.
        overrides: As for `read_recipe`; one with several values, such as "target.macs=0.7,0.5", stands for one override per value.
        weights: As for `read_recipe`.

    Returns:
        The recipe of every combination, by the overrides that are its own, such as "target.macs=0.7".

    Raises:
        RecipeError: No override has several values, or a combination is not valid.
        WeightsError: As of `read_recipe`.
    """
    offer = offer_of(weights)
    choices = [_choices(override) for override in overrides]
    several = [index for index, values in enumerate(choices) if len(values) > 1]
    if not several:
        _read(name, overrides, offer)  # whose own faults are reported first
        raise RecipeError("--set: nothing to sweep; give a key several values, e.g. --set target.macs=0.7,0.5,0.3")
    combined = [(",".join(one[index] for index in several), one) for one in product(*choices)]
    return {label: _read(name, one, offer) for label, one in combined}


def _read(name: str | Path, overrides: Sequence[str], offer: Offer) -> Recipe:
    """Return a recipe with what its weights offer; an error says too what they leave open."""
    path = locate(name)
    try:
        recipe = _checked(with_preset(parse_file(path), path), path, overrides, offer.values)
    except RecipeError as error:
        raise RecipeError("\n".join([str(error), *(f"the weights: {note}" for note in offer.notes)])) from None
    return recipe.located(Path.cwd() if path in shipped().values() else path.absolute().parent)


def _checked(tree: Tree, path: Path, overrides: Sequence[str], values: Values = NOTHING.values) -> Recipe:
    command_line = with_preset(_override_tree(overrides), Path("--set"))
    tree = fill(merge(merge({"name": path.stem}, tree), command_line), values)
    return check(tree, str(path) if not overrides else f"{path} with --set")


def _earlier_defaults(tree: Tree) -> Tree:
    """Return the values of keys that a run folder's recipe may lack, where they are not today's defaults."""
    data = tree.get("data")
    in_files = isinstance(data, dict) and is_in_files(data.get("dataset"))
    return {"data": {"crop_scale": 0.08, **({"exif_orientation": "ignore"} if in_files else {})}}


def _choices(override: str) -> list[str]:
    """Split an override into one per value: values are separated by commas outside brackets and quotes."""
    key, equals, text = override.partition("=")
    try:
        values = parse(f"[{text}]") if "," in text else []
    except NOT_YAML:
        values = []  # read_recipe reports what is wrong with it
    if len(values) < 2:
        return [override]
    return [f"{key}{equals}{to_line(value)}" for value in values]


def _override_tree(overrides: Iterable[str]) -> Tree:
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {override}: write it as key=value, e.g. --set search.epochs=2")
        try:
            value = parse(text)
        except NOT_YAML as error:
            raise RecipeError(
                f"--set {override}: the value is not valid YAML ({getattr(error, 'problem', error)}); quote text that contains "
                """YAML's special characters, e.g. --set 'constraints.ignore=["*.conv1"]'"""
            ) from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tree = merge(tree, value)
    return tree
