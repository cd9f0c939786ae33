"""Recipes drawn from the schema, with valid values, values at their bounds, and any others: they are read, or the error has the key."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edcompress.core.errors import RecipeError
from edcompress.core.recipe.loading import read_recipe
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.starter import starter
from edcompress.core.recipe.yaml_files import dump, shipped

JARGON = "Input should"
"""How pydantic's own messages begin."""

NAMES = st.characters(exclude_categories=["Cs"], exclude_characters=".\x85\u2028\u2029")  # PyYAML breaks lines there
DEFAULTS = yaml.safe_load(starter(Path("recipe.yaml")))
BASE = {
    "model": {"arch": "resnet8", "num_classes": 10},
    "data": {"dataset": "digits", "image_size": 8},
    "target": {"macs": 0.5},
}


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted key of the schema, those of sections too."""
    for name, field in model.model_fields.items():
        yield prefix + name, field
        kind = next((t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if is_section(t)), None)
        if kind is not None:
            yield from fields(kind, f"{prefix}{name}.")


def is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


FIELDS = dict(fields(Recipe))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**18, -(10**30), 10**400, 0, -1, 1, 2**31, 2**63]),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "x" * 3000, "null", "1e3", "0x10", "~", "./../..", "a\0b", "\x1b[31m", "[bold]", "名", "auto", "all"]),
    st.dates(),
    st.binary(max_size=8),
)  # fmt: skip
ANY = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
)  # fmt: skip


def near_bounds(field: FieldInfo) -> list[float]:
    """A field's bounds, and the values beside them."""
    bounds = [
        getattr(rule, side) for rule in field.metadata for side in ("ge", "gt", "le", "lt") if hasattr(rule, side)
    ]
    return [bound + step for bound in bounds for step in (-1, -1e-9, 0, 1e-9, 1)]


def default(key: str) -> object:
    value: Any = DEFAULTS
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@st.composite
def changes(draw: st.DrawFn) -> dict[str, object]:
    """New values by dotted key, none of which is a part of another; some keys are unknown."""
    keys = draw(st.lists(st.sampled_from(sorted(FIELDS)), min_size=1, max_size=5, unique=True))
    apart = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
    drawn = {
        key: draw(st.one_of(ANY, st.sampled_from([default(key), *near_bounds(FIELDS[key])])), label=key)
        for key in apart
    }
    unknown = draw(st.lists(st.text(NAMES, min_size=1, max_size=12), max_size=2))
    return drawn | {name: draw(ANY) for name in unknown if name not in FIELDS and name != "<<"}


def changed(tree: dict[str, Any], key: str, value: object) -> dict[str, Any]:
    head, _, rest = key.partition(".")
    if not rest:
        return tree | {head: value}
    inner = tree.get(head)
    return tree | {head: changed(dict(inner) if isinstance(inner, dict) else {}, rest, value)}


def unnamed(name: str, overrides: list[str], keys: list[str]) -> list[str]:
    """Faults in reading a recipe: lines of its error without a key that was set or one near it, or a dump that reads differently."""
    try:
        recipe = read_recipe(name, overrides)
    except RecipeError as error:
        lines = str(error).splitlines()
        return [line for line in lines if JARGON in line or not any(names(line, key) for key in keys)]
    again = Path(name).with_name("again.yaml")
    again.write_text(dump(recipe), encoding="utf-8")
    return [] if read_recipe(str(again)).digest == recipe.digest else ["it reads back as another recipe"]


def names(line: str, key: str) -> bool:
    shown = ".".join(part if part.isprintable() else repr(part) for part in key.split("."))
    above = [".".join(key.split(".")[:depth]) for depth in range(1, key.count(".") + 1)]
    return any(f": {name}{end}" in line for name in (*above, shown) for end in (": ", "."))


def faults(folder: Path, drawn: dict[str, object]) -> list[str]:
    """Faults in reading the drawn values from a file, and from --set."""
    tree: dict[str, Any] = BASE
    for key, value in drawn.items():
        tree = changed(tree, key, value)
    path = folder / "drawn.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    found = unnamed(str(path), [], list(drawn))
    (folder / "base.yaml").write_text(yaml.safe_dump(BASE), encoding="utf-8")
    known = {key: value for key, value in drawn.items() if key in FIELDS}
    overrides = [f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6)}" for key, value in known.items()]
    return found + unnamed(str(folder / "base.yaml"), overrides, list(known))


@given(drawn=changes())
@settings(max_examples=100, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_values_give_a_recipe_or_an_error_with_its_key(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, object]
) -> None:
    assert faults(tmp_path_factory.getbasetemp(), drawn) == []


@pytest.mark.slow
@given(drawn=changes())
@settings(max_examples=3000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_thousands_of_values(tmp_path_factory: pytest.TempPathFactory, drawn: dict[str, object]) -> None:
    assert faults(tmp_path_factory.getbasetemp(), drawn) == []


@given(data=st.binary(max_size=200), at=st.integers(0, 2000))
@settings(max_examples=100, deadline=None, database=None, derandomize=True)
def test_any_bytes_in_a_recipe(tmp_path_factory: pytest.TempPathFactory, data: bytes, at: int) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    text = shipped()["digits"].read_bytes()
    path.write_bytes(text[:at] + data + text[at:])
    with suppress(RecipeError):
        assert isinstance(read_recipe(str(path)), Recipe)
