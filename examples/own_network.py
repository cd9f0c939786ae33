"""Prune a network of your own, with data sets of your own: python examples/own_network.py [RUN FOLDER].

It trains for a few seconds, prunes to half of the multiply-accumulates, exports ONNX files, and asks the gate.
"""

from __future__ import annotations

import sys

import torch
from shapes import NAMES, draw
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import edcompress as edc


class Net(nn.Module):
    """Any module that takes images [N, C, H, W] will do."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = self.block(1, width)
        self.body = nn.Sequential(self.block(width, 2 * width), self.block(2 * width, 4 * width))
        self.classifier = nn.Linear(4 * width, len(NAMES))

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        """Return a convolution with batch norm, which halves the image."""
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [N, classes]."""
        return self.classifier(self.body(self.stem(images)).mean((2, 3)))


def train(network: nn.Module, loader: DataLoader, epochs: int) -> None:
    """Train as you always do; edcompress has no part in it."""
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()


def main(out: str) -> edc.PruneResult:
    """Train, prune, export and gate."""
    torch.manual_seed(0)
    train_set, val_set, test_set = (
        TensorDataset(*draw(count, seed)[:2]) for seed, count in enumerate((1500, 300, 500))
    )
    model = Net()
    train(model, DataLoader(train_set, 64, shuffle=True), epochs=10)

    print(edc.inspect(model, input_size=(1, 24, 24)).smallest)  # the least share that could be left

    result = edc.prune(
        model,
        train=train_set,
        val=val_set,
        test=test_set,
        target={"macs": 0.5},
        constraints={"round_to": 4},  # the network is small: usually, kept channels are multiples of 8 or more
        finetune={"epochs": 4},
        out=out,
    )
    small = result.model  # an ordinary nn.Module; `model` is as it was
    print(result)
    print(
        f"{sum(p.numel() for p in model.parameters())} parameters before, {sum(p.numel() for p in small.parameters())} after"
    )

    result = result.export()
    verdict = result.gate(max_drop=0.03, min_speedup=1.0)
    print("gate passed" if verdict.passed else "gate FAILED", f"- open {result.folder.path / 'report.html'}")
    return result


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/own_network")
