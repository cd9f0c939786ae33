"""A network from the user's own code: `package.module:callable`, importable from the working directory.

Whatever goes wrong in there is the user's to mend, so it is reported as theirs, with the original text and traceback.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from edcompress.errors import NetworkError


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Puts the working directory first on `sys.path` for the time of the block, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


def call_factory(spec: str, *, trust_code: bool) -> nn.Module:
    """The module that the factory `spec` returns; NetworkError without trust, or where the user's code fails."""
    if not trust_code:
        raise NetworkError(f"model.factory: {spec} runs your own code; add --trust-code to allow it")
    with importable_working_directory():
        factory = _find(spec)
        _require_no_arguments(spec, factory)
        try:
            network = factory()
        except (Exception, SystemExit) as error:
            raise NetworkError(f"model.factory: {spec}() failed in your code: {_text(error)}") from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"model.factory: {spec}() must return a torch.nn.Module, it returned {_kind(network)}")
    return network


def _find(spec: str) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute.isidentifier():
        raise NetworkError(f"model.factory: write package.module:callable (got {spec!r})")
    module = _import(spec, module_name)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NetworkError(f"model.factory: {module_name} has no {attribute!r}{hint}")
    factory = getattr(module, attribute)
    if not callable(factory):
        raise NetworkError(f"model.factory: {spec} is {_kind(factory)}, not a function or class to call")
    found: Callable[..., Any] = factory
    return found


def _import(spec: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise NetworkError(
                f"model.factory: {spec}: there is no module {error.name!r} in the working directory {Path.cwd()} "
                "nor among the installed packages"
            ) from error
        raise NetworkError(f"model.factory: importing {module_name} failed in your code: {_text(error)}") from error


def _require_no_arguments(spec: str, factory: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # a callable written in C has no signature to look at; calling it will tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise NetworkError(
            f"model.factory: {spec} is called without arguments, but {spec.partition(':')[2]}{signature} needs some "
            f"({error}); point to a function that takes none"
        ) from error


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {value!r:.60}"
