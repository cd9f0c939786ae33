"""Prune a segmentation network: python examples/segmentation.py [RUN FOLDER].

The labels are maps of classes, the loss is the cross-entropy over pixels, and the metric is the mean intersection over union.
"""

from __future__ import annotations

import sys

import torch
from shapes import NAMES, draw
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import edcompress as edc


class Segmenter(nn.Module):
    """Down, up, and a skip connection; in train mode it has an auxiliary head, as torchvision's segmentation networks do."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.up = nn.Conv2d(2 * width, width, 1)
        self.head = nn.Conv2d(width, 1 + len(NAMES), 1)
        self.auxiliary = nn.Conv2d(2 * width, 1 + len(NAMES), 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits [N, classes, H, W] as `out`, and an auxiliary map as `aux` in train mode."""
        fine = self.first(images)
        coarse = self.down(fine)
        deep = F.interpolate(self.up(self.deep(coarse)), scale_factor=2.0)
        outputs = {"out": self.head(fine + deep)}
        if self.training:
            outputs["aux"] = F.interpolate(self.auxiliary(coarse), scale_factor=2.0)
        return outputs


def train(network: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Train with both heads."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        for images, masks in loader:
            optimizer.zero_grad()
            outputs = network(images)
            (F.cross_entropy(outputs["out"], masks) + 0.3 * F.cross_entropy(outputs["aux"], masks)).backward()
            optimizer.step()


def maps(count: int, seed: int) -> TensorDataset:
    """Return images and their masks."""
    images, _, masks = draw(count, seed)
    return TensorDataset(images, masks)


def main(out: str) -> edc.PruneResult:
    """Train, prune, export and gate."""
    torch.manual_seed(0)
    train_set, val_set, test_set = maps(600, 0), maps(120, 1), maps(200, 2)
    model = Segmenter()
    train(model, DataLoader(train_set, 32, shuffle=True), epochs=12)
    result = edc.prune(
        model,
        train=train_set,
        val=val_set,
        test=test_set,
        target={"macs": 0.6},
        constraints={"round_to": 4},
        loss="pixel_cross_entropy",
        metric="mean_iou",
        output="out",
        finetune={"epochs": 6, "lr": 2e-3},
        out=out,
    ).export()
    print(result)
    print("gate passed" if result.gate(max_drop=0.05).passed else "gate FAILED")
    return result


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/segmentation")
