"""A small network, trained on the digits, and its data sets, as a program has them in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from edcompress.core.recipe.data import Data
from edcompress.data.splits import open_splits
from edcompress.data.transforms import Geometry

QUICK: dict[str, Any] = {"search": {"epochs": 1}, "benchmark": {"runs": 20}, "gate": {"disturbed": "allow"}}
"""Sections of a recipe with which a run takes seconds."""


class Net(nn.Module):
    """Two convolutions and a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(8 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


class Sequenced(Dataset):
    """Items of another data set, under a class without an attribute in common with it."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Any:
        return self._items[index]


def my_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """A loss of the user's own, which can be imported."""
    return F.cross_entropy(outputs, labels, label_smoothing=0.05)


def my_metric(outputs: Tensor, labels: Tensor) -> float:
    """A metric of the user's own."""
    return (outputs.argmax(1) == labels).double().mean().item()


def digit_sets() -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """400 training, 100 validation and 150 test images as floats, with their labels."""
    splits = open_splits(Data.model_validate({"dataset": "digits", "image_size": 8}), seed=0)
    read = splits.train.read(list(range(500)), Geometry(None))
    tested = splits.test.read(list(range(150)), Geometry(None))
    images, test = read.pixels.float() / 255, tested.pixels.float() / 255
    return (
        TensorDataset(images[:400], read.labels[:400]),
        TensorDataset(images[400:], read.labels[400:]),
        TensorDataset(test, tested.labels),
    )


def trained_net(train: TensorDataset, epochs: int = 16) -> Net:
    """A network that knows the digits, in train mode as training leaves it."""
    torch.manual_seed(0)
    net, (images, labels) = Net(), train.tensors
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net
