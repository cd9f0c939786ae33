"""Recipe files: finding them, merging presets and overrides, and saying all faults at once.

Layers, later over earlier: the defaults, the preset a file names, the file, the preset that `--set preset=NAME` names, `--set key=value`.
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

NOT_YAML = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises of text that is no YAML, of values that are not what their tag says, and of nesting without end."""

LONGEST = 100_000
"""Bytes of a recipe; `edcompress init` writes 10 000."""

MOST_NODES = 20_000
"""Keys and values of a recipe, each counted wherever an alias repeats it: a few nested aliases make billions."""


class _Loader(yaml.SafeLoader):
    """A section that is written twice is a fault: plain YAML would drop the first without a word."""

    def construct_document(self, node: yaml.Node) -> Any:
        if _count(node, {}) > MOST_NODES:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_NODES} values, with all its aliases")
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes in a node, which is too many where it holds itself."""
    if id(node) not in known:
        known[id(node)] = MOST_NODES + 1
        items = () if isinstance(node, yaml.ScalarNode) else node.value
        parts = (part for item in items for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(node)]


def shelf() -> Path:
    """The folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"


def shipped() -> dict[str, Path]:
    """The shipped recipes by name."""
    return {path.stem: path for path in sorted(shelf().glob("*.yaml"))}


def presets() -> dict[str, Path]:
    """The shipped presets by name."""
    return {path.stem: path for path in sorted((shelf() / "presets").glob("*.yaml"))}


def locate(name: str) -> Path:
    """The file of a recipe given as a path, or as the name of a shipped one with or without .yaml; else RecipeError."""
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path
    except (OSError, RuntimeError) as error:  # a name too long for a file, or the home of nobody
        raise RecipeError(f"recipe {short_repr(name)}: {error}") from error
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    if stem in shipped():
        return shipped()[stem]
    if stem in presets():
        raise RecipeError(f"{stem} is a preset, which a recipe starts from: --recipe RECIPE --set preset={stem}")
    if path.is_dir():
        raise RecipeError(f"recipe {name!r} is a folder; give a .yaml file or one of: {', '.join(shipped())}")
    if path.exists():
        raise RecipeError(f"recipe {name!r} is a device, pipe or socket; copy the recipe to a file first")
    raise RecipeError(
        f"no recipe {name!r}: no such file, and shipped are {', '.join(shipped())}{did_you_mean(stem, shipped())}"
    )


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it gives the same recipe."""
    tree = recipe.model_dump(mode="json") | {"preset": None}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def read_text(path: Path) -> str:
    """The text of a recipe file; RecipeError where it has none."""
    try:
        if (size := path.stat().st_size) > LONGEST:
            raise RecipeError(f"{path}: has {size} bytes, a recipe has at most {LONGEST}; is this the right file?")
        return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error


def _load(path: Path) -> Tree:
    text = read_text(path)
    try:
        tree = yaml.load(text, _Loader)
    except NOT_YAML as error:
        raise RecipeError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections, not {type(tree).__name__}")
    return tree


def _with_preset(tree: Tree, source: Path) -> Tree:
    name = tree.get("preset")
    if name is None:
        return tree
    if str(name) not in presets():
        raise RecipeError(
            f"{source}: preset: no preset {short_repr(name)}; there is {', '.join(presets())}{did_you_mean(str(name), presets())}"
        )
    return _merge(_load(presets()[name]), tree)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...\n", "").strip()
