"""Open the data set that a recipe names: training images, test images, and the names of the classes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edcompress.core import registry
from edcompress.core.errors import DataError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.dataset_facts import DATASETS
from edcompress.core.system.machine import data_home, expand_home
from edcompress.data.opening import Opened, OpenRequest, Warn, discard_warning


def open_dataset(
    data: Data,
    warn: Warn = discard_warning,
    announce: Warn = discard_warning,
    *,
    trust_code: bool = False,
    classes: int | None = None,
    any_labels: bool = False,
) -> Opened:
    """Open `data.dataset`, whole and in its own order.

    Args:
        data: The recipe's data section.
        warn: Takes a message about what lies among the images and is not read.
        announce: Takes a message about a download before it starts.
        trust_code: Run the user's own code (data.factory).
        classes: How many classes the network has, if known.
        any_labels: Whether a loss of the user's own takes the labels, which then need not be classes.

    Raises:
        DataError: The data set is missing, damaged, or not laid out as it must be.
    """
    request = OpenRequest(data, data_root(data), warn, announce, trust_code, classes, any_labels)
    opened: Opened = registry.load(DATASETS, data.dataset).open_images(request)
    return opened


def at_one_place(one: Data, other: Data, key: str) -> bool:
    """Return whether a path key of two sections leads to the same file or folder, however it is written."""
    first, second = (data_root(data) / getattr(data, key) for data in (one, other))
    return bool(first.resolve() == second.resolve())


def data_root(data: Data) -> Path:
    """Return `data.root`, else $EDCOMPRESS_DATA, else ~/.cache/edcompress; DataError where this locale cannot encode it."""
    root = expand_home(data.root, "data.root") if data.root else data_home()
    try:
        os.fsencode(root)
    except UnicodeEncodeError as error:
        encoding = sys.getfilesystemencoding()
        raise DataError(f"data.root: {root}: file names are {encoding} in this locale; set PYTHONUTF8=1") from error
    return root
