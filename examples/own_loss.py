"""Prune with a loss and a metric of your own: python examples/own_loss.py [RUN FOLDER].

Crosses are rare here, and to miss one costs most: the loss weighs them, and the metric is the recall of crosses and discs alike.
"""

from __future__ import annotations

import sys

import torch
from own_network import Net, train
from shapes import NAMES, draw
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset

import edcompress as edc

CROSS = NAMES.index("cross")
WEIGHTS = torch.tensor([1.0, 1.0, 4.0])


def weighted_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return a scalar of what the network returns for a batch, and its labels."""
    return F.cross_entropy(outputs, labels, weight=WEIGHTS.to(outputs.device), label_smoothing=0.05)


def least_recall(outputs: Tensor, labels: Tensor) -> float:
    """Return the recall of the worst class; higher is better. It gets the outputs and labels of all test images at once."""
    right = outputs.argmax(1) == labels
    return min(right[labels == label].double().mean().item() for label in range(len(NAMES)))


def with_few_crosses(count: int, seed: int) -> Subset:
    """Return a data set in which one cross of five is left."""
    images, classes, _ = draw(count, seed)
    kept = [i for i, label in enumerate(classes.tolist()) if label != CROSS or i % 5 == 0]
    return Subset(TensorDataset(images, classes), kept)


def main(out: str) -> edc.PruneResult:
    """Train, and prune by this loss and metric; without val, a part of the training images judges the search."""
    torch.manual_seed(0)
    train_set, test_set = with_few_crosses(2000, seed=0), with_few_crosses(800, seed=1)
    model = Net()
    train(model, DataLoader(train_set, 64, shuffle=True), epochs=6)
    result = edc.prune(
        model,
        train=DataLoader(train_set, 64),  # a loader will do; its data set is used
        test=test_set,
        target={"macs": 0.6},
        loss=weighted_loss,
        metric=least_recall,
        finetune={"epochs": 4, "lr": 1e-3},
        out=out,
    )
    print(f"{result.metric}: {result.accuracy:.3f} of {result.dense_accuracy:.3f} with {result.macs:.0%} of the MACs")
    return result


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/own_loss")
