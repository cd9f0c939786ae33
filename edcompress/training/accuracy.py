"""How many images a network classifies correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from edcompress.measures import Accuracy, Count
from edcompress.team import ALONE, Team
from edcompress.transfer import sent

Forward = Callable[[Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


def top_classes(logits: Tensor) -> Tensor:
    """The top five classes, or all of fewer, of logits [N, classes]: int64 [N, K], the top one first.

    An image with a NaN or infinite logit has no answer: its classes are all -1.
    """
    ranked = logits.topk(min(5, logits.shape[1]), dim=1).indices
    return ranked.where(logits.isfinite().all(dim=1, keepdim=True), -1)


def count_correct(logits: Tensor, labels: Tensor) -> tuple[int, int]:
    """How many of labels [N] are the top class, and among the top five classes, of logits [N, classes].

    With fewer than five classes the second count is over all of them; an image with a NaN or infinite logit counts
    as wrong in both.
    """
    hits = top_classes(logits) == labels.unsqueeze(1)
    return int(hits[:, 0].sum()), int(hits.sum())


@torch.no_grad()
def measure_accuracy(forward: Forward, batches: Batches, device: torch.device, team: Team = ALONE) -> Accuracy:
    """Top-1 and top-5 counts of `forward` (images [N, C, H, W] to logits [N, classes]) over labelled batches of all ranks, in fp32."""
    right1 = right5 = total = 0
    for images, labels in batches:
        top1, top5 = count_correct(forward(sent(images, device)).float().cpu(), labels)
        right1, right5, total = right1 + top1, right5 + top5, total + len(labels)
    right1, right5, total = team.sum(right1, right5, total)
    return Accuracy(top1=Count(correct=right1, total=total), top5=Count(correct=right5, total=total))
