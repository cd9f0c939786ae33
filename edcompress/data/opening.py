"""What a data set is opened from, and what it gives. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from edcompress.core.recipe.data import Data

if TYPE_CHECKING:
    from edcompress.data.images import ImageSet

Warn = Callable[[str], None]
"""Takes a message for the user."""

Opened: TypeAlias = "tuple[ImageSet, ImageSet, tuple[str, ...]]"
"""Training images, test images, and the names of the classes in index order."""


def discard_warning(text: str) -> None:
    """Take a message, and show it to nobody."""


class OpenRequest(NamedTuple):
    """A recipe's data section, the folder of all data sets, and whom to tell.

    `warn` takes what lies among the images and is not read, and `announce` a download before it starts.
    """

    data: Data
    root: Path
    warn: Warn = discard_warning
    announce: Warn = discard_warning
