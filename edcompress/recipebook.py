"""Recipe files: finding them, merging presets and overrides, and saying all faults at once.

Layers, later over earlier: the defaults, the preset a file names, the file, the preset that `--set preset=NAME` names, `--set key=value`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import product, takewhile
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from edcompress.errors import RecipeError
from edcompress.recipe import Recipe

Tree = dict[str, Any]


LONGEST = 100_000
"""Bytes of a recipe; `edcompress init` writes 10 000."""

MOST_NODES = 20_000
"""Keys and values of a recipe, each counted wherever an alias repeats it: a few nested aliases make billions."""

_NONSENSE = (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What PyYAML raises of text that is no YAML, of values that are not what their tag says, and of nesting without end."""


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
    here = Path(__file__).parent
    installed = here / "recipes"
    return installed if installed.is_dir() else here.parent / "recipes"


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
        raise RecipeError(f"recipe {_short(name)}: {error}") from error
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
        f"no recipe {name!r}: no such file, and shipped are {', '.join(shipped())}{_suggest(stem, shipped())}"
    )


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
    except _NONSENSE:
        values = []  # read_recipe says what is wrong with it
    if len(values) < 2:
        return [override]
    return [f"{key}{equals}{_flow(value)}" for value in values]


def check(tree: Tree, source: str) -> Recipe:
    """The recipe of a tree of plain values; RecipeError lists every fault as `source: dotted.key: what is wrong (got ...)`."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        lines = [f"{source}: {_fault(detail)}" for detail in error.errors(include_url=False)]
        raise RecipeError("\n".join(lines)) from None


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; reading it gives the same recipe."""
    tree = recipe.model_dump(mode="json") | {"preset": None}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def differences(one: Recipe, other: Recipe) -> list[str]:
    """Dotted keys in which two recipes differ."""
    return changed_keys(one.model_dump(mode="json"), other.model_dump(mode="json"))


def changed_keys(one: Tree, other: Tree) -> list[str]:
    """The dotted keys of `changes`."""
    return [key for key, _, _ in changes(one, other)]


def changes(one: Tree, other: Tree) -> list[tuple[str, Any, Any]]:
    """Dotted keys in which two trees of plain values differ, sorted, each with both values.

    Keys that one of them lacks were no keys yet when it was written.
    """
    return sorted(_changed(one, other, ()), key=lambda change: change[0])


def headline(path: Path) -> str:
    """The comment at the head of a recipe file, as one paragraph."""
    lines = read_text(path).splitlines()
    return " ".join(line.lstrip("# ") for line in takewhile(lambda line: line.startswith("#"), lines))


def starter(path: Path) -> str:
    """A recipe to write to `path` and start from: every key with its default, its meaning as a comment."""
    lines = ["# Every key with its default; delete what you do not change. `edcompress check FILE` checks it."]
    filled = check({"name": path.stem.lstrip(".") or "recipe", "model": {"arch": "resnet18", "num_classes": 10},
                    "data": {"dataset": "image_folder", "image_size": 224, "resize": 256, "folder": "my_images",
                             "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "augment": "resized_crop"},
                    "target": {"macs": 0.5}}, str(path))  # fmt: skip
    _describe(filled, filled.model_dump(mode="json"), 0, lines)
    return "\n".join(lines) + "\n"


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
    except _NONSENSE as error:
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
            f"{source}: preset: no preset {_short(name)}; there is {', '.join(presets())}{_suggest(str(name), presets())}"
        )
    return _merge(_load(presets()[name]), tree)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Tree:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _override_tree(overrides: Iterable[str]) -> Tree:
    tree: Tree = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set {override}: write it as key=value, e.g. --set search.epochs=2")
        try:
            value = yaml.load(text, _Loader)
        except _NONSENSE as error:
            raise RecipeError(
                f"--set {override}: the value is not valid YAML ({getattr(error, 'problem', error)}); put text with signs of YAML in it "
                """in quotes, e.g. --set 'constraints.ignore=["*.conv1"]'"""
            ) from error
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        tree = _merge(tree, value)
    return tree


def _fault(detail: ErrorDetails) -> str:
    parts = (str(part) for part in detail["loc"])
    key = ".".join(part if part.isprintable() else repr(part) for part in parts) or "recipe"
    if detail["type"] == "extra_forbidden":
        section = _section_at(detail["loc"][:-1])
        near = _suggest(str(detail["loc"][-1]), section.model_fields if section else ())
        return f"{key}: unknown key{near} (got {_short(detail['input'])})"
    if detail["type"] == "missing":
        return f"{key}: required, and not given"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {_short(detail['input'])})"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """The section of the schema at a location of dotted keys."""
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


def _suggest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _short(value: object) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, or nesting without end
        text = "a value too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


def _changed(one: Any, other: Any, path: tuple[str, ...]) -> Iterable[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in one.keys() & other.keys():
            yield from _changed(one[key], other[key], (*path, str(key)))
    elif one != other:
        yield ".".join(path), one, other


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...\n", "").strip()


def _describe(section: BaseModel, values: Tree, depth: int, lines: list[str]) -> None:
    pad = "  " * depth
    for name, field in type(section).model_fields.items():
        value, child = values[name], getattr(section, name)
        if isinstance(child, BaseModel):
            lines += ["", f"{pad}{name}:"]
            _describe(child, value, depth + 1, lines)
        else:
            lines.append(f"{pad}{name}: {_flow(value)}" + (f"  # {field.description}" if field.description else ""))
