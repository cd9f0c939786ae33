"""Parse a run file, or say what is wrong with it."""

from __future__ import annotations

import errno
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from edcompress.core.errors import RunFolderError
from edcompress.core.results.report import Report

T = TypeVar("T")

MOST_BYTES = 100_000_000
"""Largest text file in a run folder; space.json of a network of a thousand layers has 7 000 000 bytes."""

_WHOLE_REPORT = "take report.json as edcompress wrote it"


def read_report(path: Path) -> Report:
    """Return the report in a report.json; RunFolderError if it is not one."""
    try:
        report = Report.model_validate_json(_text(path))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("schema_version",):
            raise RunFolderError(
                f"{path} has schema_version {reprlib.repr(first['input'])}, which this version cannot read; use the one that wrote it"
            ) from error
        raise RunFolderError(f"{path} is not a report of edcompress: {_first_fault(error)}; {_WHOLE_REPORT}") from error
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not a report of edcompress: it is not UTF-8 text") from error
    if "schema_version" not in report.model_fields_set:
        raise RunFolderError(f"{path} is not a report of edcompress: it has no schema_version; {_WHOLE_REPORT}")
    return report


def parse_file(path: Path, parse: Callable[[str], T], fix: str = "prune again with --force") -> T:
    """Return `parse` of the text of a run's file; RunFolderError, with the fix, if the file is missing or damaged."""
    try:
        return parse(_text(path))
    except (OSError, ValueError) as error:
        fault = _first_fault(error) if isinstance(error, ValidationError) else error
        raise RunFolderError(f"{path} is missing or damaged ({fault}); {fix}") from error


def _first_fault(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    fault = first["msg"].removeprefix("Value error, ")
    return f"{key}: {fault}" if key else fault


def _text(path: Path) -> str:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))  # opening a pipe would wait for its other end
    if path.exists() and (size := path.stat().st_size) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {size} bytes, and a run's files have at most {MOST_BYTES}", str(path))
    return path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
