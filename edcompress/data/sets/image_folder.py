"""Your own image files: one folder per class under train/ and under val/ of `data.folder`."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(in_files=True, class_folders=True)


def open_images(request: OpenRequest) -> Opened:
    """Return the images under train/ and under val/; the names of the classes are those of their folders."""
    from edcompress.data.image_folder import open_image_folder
    from edcompress.data.images import interleave_classes

    train, test, classes = open_image_folder(request.root / request.data.folder, request.data, request.warn)
    return interleave_classes(train), test, classes
