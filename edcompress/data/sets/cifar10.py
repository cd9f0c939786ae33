"""CIFAR-10: 60 000 RGB images of animals and vehicles, 32x32, in 10 classes."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(folder="cifar-10-batches-py")


def open_images(request: OpenRequest) -> Opened:
    """Return the images as torchvision splits them."""
    from torchvision.datasets import CIFAR10

    from edcompress.data.torchvision_sets import open_in_memory

    return open_in_memory(CIFAR10, request)
