"""Registries: a module in a package is found by its file name, without importing it."""

import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from edcompress.core import registry

PACKAGE = "core.recipe"


class Section(BaseModel):
    room: Annotated[str, registry.one_of(PACKAGE)]


def test_names_are_those_of_the_files() -> None:
    names = registry.names_in(PACKAGE)
    assert {"recipe", "target"} <= set(names)
    assert "__init__" not in names
    assert list(names) == sorted(names)


def test_a_name_loads_its_module() -> None:
    assert registry.load(PACKAGE, "target").__name__ == "edcompress.core.recipe.target"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"choose '.*', .* or 'yaml_files'"):
        registry.load(PACKAGE, "targets")
    with pytest.raises(ValidationError, match="choose"):
        Section(room="targets")
    assert Section(room="target").room == "target"


def test_looking_up_names_imports_none_of_them() -> None:
    code = "import sys; from edcompress.core import registry; registry.names_in('pruning.search'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
