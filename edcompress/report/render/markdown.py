"""Foreign text in Markdown, shown as it is: it makes no HTML, links or table cells."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edcompress.core.plain_text import harmless

_SIGNS = re.compile(r"[\\`*_\[\]<>|#&~$]")


def literal(text: str) -> str:
    """Return text that Markdown shows as it is, on one line and in one cell."""
    return _SIGNS.sub(r"\\\g<0>", harmless(" ".join(text.split())))


def code(text: str) -> str:
    """Return text between backticks, one more than it contains in a row."""
    words = harmless(" ".join(text.split()))
    ticks = "`" * (1 + max(map(len, re.findall("`+", words)), default=0))
    return f"{ticks}{words}{ticks}" if ticks == "`" else f"{ticks} {words} {ticks}"


def table_row(cells: Iterable[str]) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(map(literal, cells))} |"
