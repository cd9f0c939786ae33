"""1797 grey images of handwritten digits, 8x8, in 10 classes: shipped with edcompress."""

from __future__ import annotations

from importlib import resources

from edcompress.core.recipe.dataset_facts import DatasetFacts
from edcompress.data.opening import Opened, OpenRequest

FACTS = DatasetFacts()

TEST_EVERY = 5
"""Every fifth image is a test image: 1438 train and 359 test, with the same writers in both."""


def open_images(request: OpenRequest) -> Opened:
    """Return the images of digits.npz, their 17 grey values scaled to 0..255."""
    import numpy as np
    import torch

    from edcompress.data.images import memory_images

    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"]  # uint8 [1797, 8, 8] of 0..16, and [1797]
    pixels = torch.from_numpy(np.rint(images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    digits = memory_images(pixels, torch.from_numpy(labels), request.data)
    number = torch.arange(len(digits))
    is_test = number % TEST_EVERY == TEST_EVERY - 1
    return Opened(digits.subset(number[~is_test]), digits.subset(number[is_test]), tuple("0123456789"))
