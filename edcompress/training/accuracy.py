"""Top-1 and top-5 counts of correctly classified images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.core.results.measures import Accuracy, Count
from edcompress.core.system.device_transfer import to_device
from edcompress.core.system.distributed import ALONE, ProcessGroup

Forward = Callable[[Tensor], Any]
LabelledBatches = Iterable[tuple[Tensor, Tensor]]


def top_classes(logits: Tensor) -> Tensor:
    """Return the top five classes, or all of fewer, of logits [N, classes]: int64 [N, K], the top one first.

    Of classes with equal logits the first comes first, as in argmax. An image with a NaN or infinite logit has no answer: its
    classes are all -1.
    """
    left, ranked = logits.clone(), []
    for _ in range(min(5, logits.shape[1])):
        ranked.append(left.argmax(dim=1, keepdim=True))  # topk does not say which of equal ones it takes
        left.scatter_(1, ranked[-1], -math.inf)
    return torch.cat(ranked, dim=1).where(logits.isfinite().all(dim=1, keepdim=True), -1)


def count_agreeing(classes: Tensor, others: Tensor) -> int:
    """Return how many images, or pixels of maps, have the same top class in two results of `top_classes`; no answer agrees with nothing."""
    return int(((classes[:, 0] == others[:, 0]) & (others[:, 0] >= 0)).sum())


def count_correct(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return how many of labels [N] are the top class, and among the top five classes, of logits [N, classes].

    With fewer than five classes the second count is over all of them; an image with a NaN or infinite logit counts
    as wrong in both.
    """
    return _count_hits(top_classes(logits), labels)


def _count_hits(classes: Tensor, labels: Tensor) -> tuple[int, int]:
    """Return `count_correct` of top classes [N, K]."""
    hits = classes == labels.unsqueeze(1)
    return int(hits[:, 0].sum()), int(hits.sum())


def accuracy_of(right1: int, right5: int, labels: Tensor, answers: Tensor) -> Accuracy:
    """Return the accuracy of right answers, with labels and top classes counted by class, int64 [classes] each."""
    total = int(labels.sum())
    chance = int((labels * answers).sum()) / total**2 if total else None
    return Accuracy(top1=Count(correct=right1, total=total), top5=Count(correct=right5, total=total), chance=chance)


def by_class(classes: Tensor, count: int) -> Tensor:
    """Return how often each of `count` classes is in int64 [N], int64 [count]; images without an answer (-1) are not counted."""
    return torch.bincount(classes[classes >= 0], minlength=count)


def accuracy_of_answers(labels: Tensor, classes: Tensor) -> Accuracy:
    """Return the accuracy of top classes int64 [N, K] for labels int64 [N]."""
    count = int(max(labels.max(), classes.max())) + 1
    counts = (by_class(found, count) for found in (labels, classes[:, 0]))
    return accuracy_of(*_count_hits(classes, labels), *counts)


@torch.no_grad()
def measure_accuracy(
    forward: Forward, batches: LabelledBatches, device: torch.device, classes: int, ranks: ProcessGroup = ALONE
) -> Accuracy:
    """Return top-1 and top-5 of `forward` (images [N, C, H, W] to logits [N, classes]) over labelled batches of all ranks, in fp32."""
    right1 = right5 = 0
    labelled, answered = torch.zeros(2, classes, dtype=torch.int64)
    for images, labels in batches:
        answers = top_classes(forward(to_device(images, device)).float().cpu())
        top1, top5 = _count_hits(answers, labels)
        right1, right5 = right1 + top1, right5 + top5
        labelled += by_class(labels, classes)
        answered += by_class(answers[:, 0], classes)
    right1, right5, *counts = ranks.sum(right1, right5, *labelled.tolist(), *answered.tolist())
    return accuracy_of(right1, right5, *torch.tensor(counts).view(2, classes))


def summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum over the images of their cross-entropy, on the CPU."""
    return F.cross_entropy(logits.float().cpu(), labels, reduction="sum")


@torch.no_grad()
def mean_loss(
    forward: Forward,
    batches: LabelledBatches,
    device: torch.device,
    summed: Callable[[Any, Tensor], Tensor] = summed_cross_entropy,
) -> float:
    """Return the mean over labelled images of the loss of `forward`; infinity where it is NaN.

    `summed` returns the sum over the images of a batch, given what `forward` returns and the labels (CPU).
    """
    total, images = 0.0, 0
    for pixels, labels in batches:
        total += summed(forward(to_device(pixels, device)), labels).item()
        images += len(labels)
    mean = total / max(1, images)
    return mean if math.isfinite(mean) else math.inf
