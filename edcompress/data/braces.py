"""The number of names that the braces of a pattern stand for, without making them: a range of a few characters can fill the memory."""

from __future__ import annotations

import re
from collections.abc import Iterable
from string import ascii_letters

MOST_NAMES = 100_000

MOST_BRACES = 50
"""In a pattern; the library that expands them calls itself for each pair within another."""

MOST_CHARACTERS = 4096
"""In a pattern: as many as a path may have."""

MOST_DIGITS = 12
"""Of a number in braces: leading zeros pad all names of a range."""

_INNERMOST = re.compile(r"\{([^{}]*)\}")

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?")
"""Numbers in braces as braceexpand reads them: from, to, step."""


def require_few_names(patterns: Iterable[str]) -> None:
    """Raise ValueError where patterns stand for more than `MOST_NAMES` names in all, or one is longer than a path can be."""
    most = 0
    for pattern in patterns:
        if len(pattern) > MOST_CHARACTERS or pattern.count("{") > MOST_BRACES:
            raise ValueError(f"a name has at most {MOST_CHARACTERS} characters, and {MOST_BRACES} pairs of braces")
        most += most_names(pattern)
    if most > MOST_NAMES:
        raise ValueError(
            f"the braces may stand for {most} names, and at most {MOST_NAMES} are taken; give shorter ranges"
        )


def most_names(pattern: str) -> int:
    """Return an upper bound on the names that a pattern stands for: braces within others count as if each were alone."""
    names = 1
    while groups := _INNERMOST.findall(pattern):
        for group in groups:
            names *= _alternatives(group)
        pattern = _INNERMOST.sub("", pattern)
    return names


def _alternatives(group: str) -> int:
    """Return how many names one pair of braces stands for; for a range of letters, the number of all letters."""
    if not (numbers := _RANGE.fullmatch(group)):
        return len(ascii_letters) if ".." in group else group.count(",") + 1
    if max(map(len, numbers.groups(""))) > MOST_DIGITS:
        return MOST_NAMES + 1
    first, last, step = (int(number) for number in numbers.groups("1"))
    return abs(last - first) // (step or 1) + 1
