"""Silence libraries that print, warn and log about their own internals."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

EXPORTERS = (
    "torch.onnx",
    "torch.export",
    "torch._export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)
"""Loggers of the libraries that export networks."""


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Suppress printed text, all warnings, and the log lines of the named loggers ("" is the root); errors pass.

    For adapters only, which check by themselves what those would hint at.
    """
    named = [logging.getLogger(name) for name in loggers]
    levels = [logger.level for logger in named]
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        for logger in named:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(named, levels, strict=True):
                logger.setLevel(level)


def cause_of(error: BaseException) -> str:
    """Return the original cause of an exporter's error on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = f"{type(error).__name__}: {first_lines(error)}"
    if "DataDependent" not in text:
        return text
    return (
        "its forward depends on the values of tensors (an if, a while, int() or item()), which no exported file can "
        f"({text.split('.  ', maxsplit=1)[0]})"
    )


def first_lines(error: BaseException, limit: int = 4) -> str:
    """Return the first lines of a foreign error's message as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:limit]) or "no message"
