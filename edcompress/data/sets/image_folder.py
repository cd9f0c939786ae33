"""Your own image files: one folder per class, under train/ and val/ or test/ of `data.folder`, or in `data.folder` itself."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(in_files=True, class_folders=True)


def open_images(request: OpenRequest) -> Opened:
    """Return the images of the splits that there are; the names of the classes are those of their folders."""
    from edcompress.data.image_folder import open_image_folder
    from edcompress.data.images import interleave_classes

    opened = open_image_folder(request)
    return opened._replace(train=interleave_classes(opened.train))
