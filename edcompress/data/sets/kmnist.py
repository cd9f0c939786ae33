"""Kuzushiji-MNIST: 70 000 grey images of cursive Japanese characters, 28x28, in 10 classes."""

from __future__ import annotations

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts(folder="KMNIST/raw")


def open_images(request: OpenRequest) -> Opened:
    """Return the images as torchvision splits them."""
    from torchvision.datasets import KMNIST

    from edcompress.data.torchvision_sets import open_in_memory

    return open_in_memory(KMNIST, request)
