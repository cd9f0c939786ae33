"""Find, parse, merge and write recipe files.

Layers, later over earlier: the defaults, the preset that a file names, the file, the preset that `--set preset=NAME` names, and
`--set key=value`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from edcompress.core.errors import RecipeError
from edcompress.core.plain_text import did_you_mean, short_repr
from edcompress.core.recipe.recipe import Recipe

Tree = dict[str, Any]
"""Plain values by section and key, as in a recipe file."""

NOT_YAML = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises for text that is not YAML, for values that do not fit their tag, and for endless nesting."""

LONGEST = 100_000
"""Bytes of a recipe file; `edcompress init` writes 10 000."""

MOST_NODES = 20_000
"""Keys and values of a recipe, each counted as often as an alias repeats it: a few nested aliases make billions."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice, of which plain YAML would silently drop the first."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _count(node, {}) > MOST_NODES:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_NODES} values, with all its aliases")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the nodes in a node; one that holds itself has too many."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1
        items = () if isinstance(node, yaml.ScalarNode) else node.value
        parts = (part for item in items for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """Return the files of the shipped recipes by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.yaml"))}


def presets() -> dict[str, Path]:
    """Return the files of the shipped presets by name."""
    return {path.stem: path for path in sorted((recipes_folder() / "presets").glob("*.yaml"))}


def locate(name: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        name: Its path, or the name of a shipped recipe with or without .yaml.

    Raises:
        RecipeError: The recipe does not exist.
    """
    name = str(name)
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name too long for a file, or ~ of an unknown user
        raise RecipeError(f"recipe {short_repr(name)}: {error}") from error
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if stem in shipped():
        return shipped()[stem]
    if stem in presets():
        raise RecipeError(f"{stem} is a preset, not a recipe; use it with one: --recipe RECIPE --set preset={stem}")
    if path.is_dir():
        raise RecipeError(f"recipe {name!r} is a folder; give a .yaml file or one of: {', '.join(shipped())}")
    if path.exists():
        raise RecipeError(f"recipe {name!r} is a device, pipe or socket; copy the recipe to a file first")
    raise RecipeError(
        f"no recipe {name!r}: no such file, and the shipped recipes are {', '.join(shipped())}{did_you_mean(stem, shipped())}"
    )


def dump(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML, which reads as the same recipe."""
    tree = recipe.model_dump(mode="json") | {"preset": None}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_text(path: Path) -> str:
    """Return the text of a recipe file; RecipeError where it cannot be read."""
    try:
        if (size := path.stat().st_size) > LONGEST:
            raise RecipeError(
                f"{path}: has {size} bytes, a recipe has at most {LONGEST}; check that this is the right file"
            )
        return path.read_text(encoding="utf-8-sig")  # some editors start a file with a byte order mark
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error


def parse(text: str) -> Any:
    """Return the value that YAML text stands for; raises one of `NOT_YAML`."""
    return yaml.load(text, _Loader)


def parse_file(path: Path) -> Tree:
    """Return the values of a recipe file; RecipeError where it cannot be read, or is not a mapping in YAML."""
    text = read_text(path)
    try:
        tree = parse(text)
    except NOT_YAML as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, not {type(tree).__name__}")
    return tree


def with_preset(tree: Tree, source: Path) -> Tree:
    """Merge a tree over the preset that it names, if any; RecipeError, which names `source`, if the preset does not exist."""
    name = tree.get("preset")
    if name is None:
        return tree
    if str(name) not in presets():
        raise RecipeError(
            f"{source}: preset: no preset {short_repr(name)}; available: {', '.join(presets())}{did_you_mean(str(name), presets())}"
        )
    return merge(parse_file(presets()[name]), tree)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    """Merge two trees section by section; values of `above` replace those of `below`."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def to_line(value: Any) -> str:
    """Return a value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...\n", "").strip()
