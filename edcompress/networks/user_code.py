"""A network from the user's own code: `package.module:callable`, importable from the working directory.

Whatever goes wrong in there is the user's to mend, so it is reported as theirs, with the original text and traceback.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import edcompress
from edcompress.errors import NetworkError

NOT_THEIRS = (*(f"{folder}{os.sep}" for package in (edcompress, torch) for folder in package.__path__), "<frozen ")
"""How the paths of frames begin that say nothing about the user's code: ours, torch's and the import system's."""

MOST_FRAMES = 20


@contextmanager
def users_code(what: str) -> Iterator[None]:
    """NetworkError with `what` and the user's part of the traceback where the block fails, if by sys.exit; Ctrl-C is Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise NetworkError(f"{what}: {_text(error)}{_their_traceback(error)}") from error


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
        with users_code(f"model.factory: {spec}() failed in your code"):
            network = factory()
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
    with users_code(f"model.factory: importing {module_name} failed in your code"):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            absent, cause = error.name, error
    raise NetworkError(
        f"model.factory: {spec}: there is no module {absent!r} in the working directory {Path.cwd()} "
        "nor among the installed packages"
    ) from cause


def _require_no_arguments(spec: str, factory: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # a callable written in C has no signature to look at; calling it will tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise NetworkError(
            f"model.factory: {spec} is called without arguments, but {spec.partition(':')[2]}{signature} needs some "
            f"({error}); point to a function that takes none"
        ) from error


def _text(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _their_traceback(error: BaseException) -> str:
    """The traceback as Python prints it, from a new line on, of the last of the user's frames; nothing where there are none."""
    shown = traceback.TracebackException.from_exception(error)
    theirs = [frame for frame in shown.stack if not frame.filename.startswith(NOT_THEIRS)]
    if not theirs and not isinstance(error, SyntaxError):
        return ""
    shown.stack = traceback.StackSummary.from_list(theirs[-MOST_FRAMES:])
    return "\n" + "".join(shown.format(chain=False)).rstrip()


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"
