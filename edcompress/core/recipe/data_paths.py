"""Paths in a recipe: relative to the recipe's folder first, then to the data root."""

from __future__ import annotations

import os
import re
from pathlib import Path

JOINT = "::"
"""Between several specifications of shards."""

_BRACES = re.compile(r"\{[^{}]*\}")


def beside(base: Path, text: str) -> str | None:
    """Return the absolute form of a path, or of specifications of shards, that lies in `base`; None where it does not."""
    if not text:
        return None
    parts = [os.path.expanduser(part) for part in text.split(JOINT)]
    if not all(os.path.isabs(part) or _exists(base, part) for part in parts):
        return None
    found = JOINT.join(str(base / part) for part in parts)
    return None if found == text else found


def places(base: Path | None, root: Path, text: str) -> str:
    """Return the places where a path was looked for, for messages."""
    tried = [root / text] if base is None or not text or Path(text).is_absolute() else [base / text, root / text]
    return " and ".join(dict.fromkeys(map(str, tried)))


def _exists(base: Path, part: str) -> bool:
    """Return whether a path exists in a folder; of a pattern with braces, whether anything may match it."""
    try:
        if "{" not in part:
            return (base / part).exists()
        while _BRACES.search(part):
            part = _BRACES.sub("*", part)
        return any(True for _ in base.glob(part))
    except (OSError, ValueError, NotImplementedError):  # a name too long, or no pattern
        return False
