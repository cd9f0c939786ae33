"""The two frozen bases: `Section` for what a person writes in a recipe, `Value` for what a program measures and stores."""

import importlib
import math
import pkgutil
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError

import edcompress
from edcompress.core.frozen import MOST_INTEGER, Section, Value


class Figures(Value):
    number: float
    flag: bool = False


class Settings(Section):
    number: float
    flag: bool = False


def subclasses(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """All classes of the package that are made from a base."""
    for module in pkgutil.walk_packages(edcompress.__path__, "edcompress."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)
    waiting = base.__subclasses__()
    while waiting:
        waiting += (kind := waiting.pop()).__subclasses__()
        if kind.__module__.startswith("edcompress."):
            yield kind


def test_sections_are_recipes_and_values_are_not() -> None:
    homes = {kind.__module__.rpartition(".")[0] for kind in subclasses(Section)}
    assert homes <= {
        "edcompress.core.recipe",
        "edcompress.pruning.search.methods",
        "edcompress.training.losses",
    }  # a method and a loss may have options of their own
    assert not {kind for kind in subclasses(Value) if kind.__module__.startswith("edcompress.core.recipe")}


@pytest.mark.parametrize("base", [Figures, Settings])
def test_both_are_frozen_and_refuse_unknown_keys_and_huge_numbers(base: type[BaseModel]) -> None:
    made = base(number=1)
    with pytest.raises(ValidationError, match="frozen"):
        made.number = 2  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="extra"):
        base(number=1, other=2)
    with pytest.raises(ValidationError, match=rf"too large; at most {MOST_INTEGER}|too large; at most 1e\+100"):
        base(number=1e200)


def test_a_value_may_be_nan_and_a_section_may_not() -> None:
    assert math.isnan(Figures(number=math.nan).number)
    assert Figures.model_validate_json(Figures(number=math.inf).model_dump_json()).number == math.inf
    with pytest.raises(ValidationError, match="finite number"):
        Settings(number=math.nan)


def test_a_section_takes_no_boolean_for_a_number() -> None:
    assert Settings(number=1, flag=True).flag
    with pytest.raises(ValidationError, match="give a value, not true or false"):
        Settings(number=True)
    assert Figures(number=True).number == 1
