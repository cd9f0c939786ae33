"""Text from files and other programs, made safe and short enough for a terminal and for the log of a CI server."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

SHOWN = 8
"""Names that a message lists; the others are counted."""

_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters other than tabs and line ends, characters that change the direction of text, and lone surrogates."""

_COMMANDS = re.compile(r"^([^\S\n]*:)(?=:)|(#)(?=#(?:\[|vso\[|teamcity\[))", re.MULTILINE)
"""The start of a line that a CI server obeys: `::error::`, `##[group]`, `##vso[...]`, `##teamcity[...]`."""


def harmless(text: str) -> str:
    """Return the text with control characters escaped (`\\x1b`) and commands to CI servers broken by a space; line ends stay."""
    return _COMMANDS.sub(r"\1\2 ", _UNSEEN.sub(_escaped, text))


def one_line(text: str) -> str:
    """Return `harmless` text whose line ends are escaped too."""
    return harmless(text.replace("\n", "\\n").replace("\t", " "))


def few(names: Sequence[str], shown: int = SHOWN) -> str:
    """Return the first names in a row, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def did_you_mean(name: str, known: Iterable[str], most: int = 1) -> str:
    """Return "; did you mean 'x' or 'y'?" for the `most` known names nearest to `name`, or "" where none is near."""
    near = difflib.get_close_matches(name, list(known), most)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def short_repr(value: object) -> str:
    """Return repr(value), cut to 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of more than 4300 digits, or endless nesting
        text = "a value too large to show"
    return text if len(text) <= 60 else text[:57] + "..."
