"""CIFAR-100: 60 000 RGB images, 32x32, in 100 classes."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(folder="cifar-100-python")


def open_images(request: OpenRequest) -> Opened:
    """Return the images as torchvision splits them."""
    from torchvision.datasets import CIFAR100

    from edcompress.data.torchvision_sets import open_in_memory

    return open_in_memory(CIFAR100, request)
