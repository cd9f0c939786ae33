"""Oxford 102 Flower: 8189 RGB photographs of flowers, in files of any size, in 102 classes."""

from __future__ import annotations

from edcompress.core.errors import DataError
from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(folder="flowers-102", in_files=True)


def open_images(request: OpenRequest) -> Opened:
    """Return torchvision's train and val parts as training images, and its test part as test images."""
    from torchvision.datasets import Flowers102

    from edcompress.data.images import file_images, interleave_classes
    from edcompress.data.torch_private import files_and_labels
    from edcompress.data.torchvision_sets import open_part

    _require_scipy()
    train, val, test = (
        files_and_labels(open_part(Flowers102, request, split=split)) for split in ("train", "val", "test")
    )
    training_images = interleave_classes(file_images(train + val, request.data))
    return Opened(training_images, file_images(test, request.data), tuple(Flowers102.classes))


def _require_scipy() -> None:
    """Raise DataError unless SciPy, with which torchvision reads the labels, is installed."""
    try:
        import scipy.io  # noqa: F401
    except ImportError as error:
        raise DataError(
            "data.dataset: flowers102 needs SciPy, which is not installed: pip install 'edcompress[flowers102]'"
        ) from error
