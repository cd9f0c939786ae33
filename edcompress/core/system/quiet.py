"""Libraries that print, warn and log about their own internals, kept off the user's terminal."""

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
"""Loggers of what exports networks."""


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hold back what is printed, all warnings, and the log lines of the named loggers ("" is the root); errors come through.

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
    """On one line, what is behind an exporter's error."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = f"{type(error).__name__}: {first_lines(error)}"
    if "DataDependent" not in text:
        return text
    return (
        "its forward decides by what tensors hold (an if, a while, int() or item()), which no exported file can "
        f"({text.split('.  ', maxsplit=1)[0]})"
    )


def first_lines(error: BaseException, limit: int = 4) -> str:
    """What a foreign error says, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:limit]) or "no message"
