"""Search methods that a test adds: one file each, beside those of the package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edcompress.core import registry
from edcompress.core.recipe.search import METHODS
from edcompress.pruning.search import methods


def add_method(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `source` the search method `name` for the length of a test."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    names_in, names = registry.names_in, (*registry.names_in(METHODS), name)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(folder)])
    monkeypatch.setattr(registry, "names_in", lambda package: names if package == METHODS else names_in(package))
    monkeypatch.delitem(sys.modules, f"edcompress.{METHODS}.{name}", raising=False)
