"""What a data set is opened from, and what it gives. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edcompress.core.recipe.data import Data
from edcompress.core.recipe.data_paths import places

if TYPE_CHECKING:
    from edcompress.data.images import ImageSet

Warn = Callable[[str], None]
"""Takes a message for the user."""


def discard_warning(text: str) -> None:
    """Take a message, and show it to nobody."""


class Opened(NamedTuple):
    """Training images, test images, and the names of the classes in index order.

    Attributes:
        train: The training images.
        test: The test images.
        classes: The names of the classes; () where only the network says how many there are.
        search: The images that judge states, where the data set has its own; None: a share of the others is held out.
        parts: The folders that hold the class folders of the training and of the test images.
        divided: What divides them, where that is for the user to know; the numbers of images follow it in a note.
        doubts: Reasons to doubt figures on them, though they can be used.
    """

    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    search: ImageSet | None = None
    parts: tuple[Path, Path] | None = None
    divided: str = ""
    doubts: tuple[str, ...] = ()


class OpenRequest(NamedTuple):
    """A recipe's data section, the folder of all data sets, and who gets messages.

    `warn` takes what lies among the images and is not read, and `announce` a download before it starts. `trust_code`: the user's own code
    may run. `classes` is the number of the network's, where it is known, and with `any_labels` labels need not be classes.
    """

    data: Data
    root: Path
    warn: Warn = discard_warning
    announce: Warn = discard_warning
    trust_code: bool = False
    classes: int | None = None
    any_labels: bool = False

    @property
    def tried(self) -> str:
        """The places where `data.folder` or `data.source` was looked for."""
        return places(self.data.base, self.root, self.data.folder or self.data.source)
