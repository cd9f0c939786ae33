"""The user's own code: `package.module:callable`, importable from the working directory, and its errors as the user's.

An error in that code is the user's to fix, and is reported with its original text and traceback. Imports no torch.
"""

from __future__ import annotations

import importlib
import inspect
import os
import reprlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edcompress.core.errors import InputError
from edcompress.core.plain_text import did_you_mean

IN_MEMORY = "memory:"
"""Begins the names that recipes have for objects in memory that cannot be imported."""

OF_A_PROGRAM = (
    "was an object in memory of a Python program, and cannot be found without it; give the same objects to edcompress.prune(..., "
    "out=THE RUN FOLDER, resume=True) there, whose result exports, gates and has the network"
)

MOST_FRAMES = 20
"""Frames of a traceback that are shown."""

NOT_USER_CODE = ("edcompress", "torch")
"""Packages whose frames are left out of tracebacks."""


@contextmanager
def users_code(what: str, kind: type[InputError] = InputError) -> Iterator[None]:
    """Turn any error of the block, even sys.exit, into one of a kind with `what` and the user's part of the traceback; Ctrl-C passes."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise kind(f"{what}: {_text(error)}{_user_traceback(error)}") from error


@contextmanager
def importable_working_directory() -> Iterator[None]:
    """Put the working directory first on `sys.path` inside the block, as `python -m` does."""
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if folder in sys.path:
            sys.path.remove(folder)


@dataclass(frozen=True)
class Trust:
    """What of the user's code may be used: any that can be imported, if `code`, and these objects in memory, by their recipe names."""

    code: bool = False
    objects: Mapping[str, Any] = field(default_factory=dict)

    def find(self, key: str, spec: str) -> Callable[..., Any]:
        """Return the object of a name, or import it as `find_callable` does; InputError for one that a program has not given."""
        if spec in self.objects:
            found: Callable[..., Any] = self.objects[spec]
            return found
        if spec.startswith(IN_MEMORY):
            raise InputError(f"{key}: {spec.removeprefix(IN_MEMORY)} {OF_A_PROGRAM}")
        return find_callable(key, spec, trust_code=self.code)


NO_TRUST = Trust()


def find_callable(key: str, spec: str, kind: type[InputError] = InputError, *, trust_code: bool) -> Callable[..., Any]:
    """Import the function or class that a recipe names.

    Args:
        key: The recipe's key, for messages.
        spec: package.module:callable.
        kind: The class of the errors.
        trust_code: Whether the user allowed their code to run.

    Raises:
        InputError: The code is not trusted, cannot be imported, or is not callable.
    """
    if not trust_code:
        raise kind(f"{key}: {spec} runs your own code; add --trust-code to allow it")
    with importable_working_directory():
        return _find(key, spec, kind)


def require_no_arguments(key: str, spec: str, found: Callable[..., Any], kind: type[InputError] = InputError) -> None:
    """Raise an error for a callable that cannot be called without arguments."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):  # a callable written in C has no signature; calling it will show
        return
    try:
        signature.bind()
    except TypeError as error:
        raise kind(
            f"{key}: {spec} is called without arguments, but {spec.partition(':')[2]}{signature} needs some "
            f"({error}); point to a function that takes none"
        ) from error


def kind_of(value: object) -> str:
    """Return the type and a short form of a value, for messages."""
    return "None" if value is None else f"{type(value).__name__} {reprlib.repr(value)}"


def kind_with_length(value: object) -> str:
    """Return the type of a value and, of a tuple or list, how many parts it has, else `kind_of` it."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else kind_of(value)


def _find(key: str, spec: str, kind: type[InputError]) -> Callable[..., Any]:
    module_name, _, attribute = spec.partition(":")
    if not module_name or not attribute.isidentifier():
        raise kind(f"{key}: write package.module:callable (got {spec!r})")
    module = _import(key, spec, module_name, kind)
    if not hasattr(module, attribute):
        hint = did_you_mean(attribute, dir(module), 3)
        raise kind(f"{key}: {module_name} has no {attribute!r}{hint}")
    value = getattr(module, attribute)
    if not callable(value):
        raise kind(f"{key}: {spec} is {kind_of(value)}, not a function or class to call")
    found: Callable[..., Any] = value
    return found


def _import(key: str, spec: str, module_name: str, kind: type[InputError]) -> Any:
    with users_code(f"{key}: importing {module_name} failed in your code", kind):
        try:
            return importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            absent, cause = error.name, error
    raise kind(
        f"{key}: {spec}: there is no module {absent!r} in the working directory {Path.cwd()} "
        "nor among the installed packages"
    ) from cause


def _text(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _user_traceback(error: BaseException) -> str:
    """Return the traceback as Python prints it, on a new line, of the last frames of the user's code; "" where there are none."""
    shown = traceback.TracebackException.from_exception(error)
    user_frames = [frame for frame in shown.stack if not frame.filename.startswith(_library_folders())]
    if not user_frames and not isinstance(error, SyntaxError):
        return ""
    shown.stack = traceback.StackSummary.from_list(user_frames[-MOST_FRAMES:])
    return "\n" + "".join(shown.format(chain=False)).rstrip()


def _library_folders() -> tuple[str, ...]:
    """Return the start of the paths of frames outside the user's code: those of `NOT_USER_CODE`, and the import system's."""
    packages = (sys.modules[name] for name in NOT_USER_CODE if name in sys.modules)
    return (*(f"{folder}{os.sep}" for package in packages for folder in package.__path__), "<frozen ")
