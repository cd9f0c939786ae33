"""Images that a Python program has in memory, and passes to edcompress as objects."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts()


def open_images(request: OpenRequest) -> Opened:
    """Raise DataError: only the program has the images."""
    from edcompress.core.errors import DataError

    raise DataError(
        f"data.dataset: {request.data.dataset}: these images were objects of a Python program, and no recipe can open them; call "
        "edcompress there with the same objects, or give a recipe with data.factory"
    )
