"""Registries: each entry is one module in a package, found by its file name.

Looking up names imports nothing, so that a recipe is checked without loading torch. A module is imported when it is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import AfterValidator

from edcompress.core.plain_text import did_you_mean

_PACKAGE = Path(__file__).parents[1]


@cache
def names_in(package: str) -> tuple[str, ...]:
    """Return the names of the modules in a package of edcompress, such as "pruning.search.methods", in alphabetical order."""
    folder = _PACKAGE.joinpath(*package.split("."))
    return tuple(sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")))


def load(package: str, name: str) -> ModuleType:
    """Import and return one module of a package.

    Raises:
        ValueError: `name` is not in `names_in(package)`.
    """
    return import_module(f"edcompress.{package}.{_require_known(package, name)}")


@dataclass(frozen=True)
class KnownName:
    """A check that a text names a module of a package; its ValueError lists the names that exist."""

    package: str

    @property
    def names(self) -> tuple[str, ...]:
        """The names that pass."""
        return names_in(self.package)

    def __call__(self, name: Any) -> Any:
        """Return the name, or raise ValueError."""
        return _require_known(self.package, name)


@dataclass(frozen=True)
class KnownNameOrPath(KnownName):
    """A check that a text names a module of a package, or is package.module:callable of the user's own."""

    def __call__(self, name: Any) -> Any:
        """Return the name, or raise ValueError."""
        if ":" not in str(name):
            return super().__call__(name)
        if not re.fullmatch(r"[\w.-]+:\w+", name):
            raise ValueError("write package.module:callable, of letters, digits, _ . and -")
        return name


def one_of_or_path(package: str) -> AfterValidator:
    """Return a pydantic validator of a text that names a module of a package, or package.module:callable."""
    return AfterValidator(KnownNameOrPath(package))


def is_path(name: str) -> bool:
    """Return whether a name is package.module:callable of the user's own code."""
    return ":" in name


def one_of(package: str) -> AfterValidator:
    """Return a pydantic validator of a text that names a module of a package."""
    return AfterValidator(KnownName(package))


def _require_known(package: str, name: str) -> str:
    names = names_in(package)
    if name not in names:
        *others, last = map(repr, names)
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"choose {listed}{did_you_mean(name, names)}")
    return name
