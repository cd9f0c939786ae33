"""Images that a Python program has in memory, and passes to edcompress as objects."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts()


def open_images(request: OpenRequest) -> Opened:
    """Raise DataError: only the program has the images."""
    from edcompress.core.errors import DataError
    from edcompress.core.user_code import OF_A_PROGRAM

    raise DataError(f"data.dataset: {request.data.dataset}: what held these images {OF_A_PROGRAM}")
