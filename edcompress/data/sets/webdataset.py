"""Your own images in tar shards, in the layout of the webdataset library."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(
    in_files=True,
    numbered_classes=True,
    required_keys=("train_shards", "test_shards"),
    indexing="opening the shards; those that are new or have changed are read through once",
)


def open_images(request: OpenRequest) -> Opened:
    """Return the images of `data.train_shards` and of `data.test_shards`."""
    from edcompress.data.images import interleave_classes
    from edcompress.data.tar_shards import open_shards

    train, test, classes = open_shards(request.root, request.data, request.warn)
    return Opened(interleave_classes(train), test, classes)
