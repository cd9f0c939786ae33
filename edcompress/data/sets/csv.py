"""Your own images, which the rows of a CSV file name with their classes."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(in_files=True, required_keys=("source",))


def open_images(request: OpenRequest) -> Opened:
    """Return the images that `data.source` names, by its split column or divided by class."""
    from edcompress.data.csv_table import open_csv

    return open_csv(request)
