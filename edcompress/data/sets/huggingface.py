"""A data set of Hugging Face's library: a folder by save_to_disk, or a name on the hub."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(in_files=True, required_keys=("source",))


def open_images(request: OpenRequest) -> Opened:
    """Return the images of `data.source` by its splits, or divided by class."""
    from edcompress.data.hf_sets import open_hf

    return open_hf(request)
