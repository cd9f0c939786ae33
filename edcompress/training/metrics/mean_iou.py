"""Mean IoU: the overlap of the pixels that have a class and those that are given it, over both; the mean over the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.training.loss import one_class_fault
from edcompress.training.metric import LogitsMetric, Statistics

IGNORED = 255
"""The label of pixels that do not count."""


class MeanIou(LogitsMetric):
    """Intersection over union of each class over all images, the mean over classes that pixels have or are given."""

    label = "mean IoU"

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return one_class_fault(logits, labels, dims=4)

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return the pixels of intersection and of union of each image and class, int64 [N, classes] each."""
        classes = logits.shape[1]
        counted = (labels != IGNORED).flatten(1)
        answers = logits.argmax(dim=1).flatten(1).where(logits.isfinite().all(dim=1).flatten(1), classes)
        truth = labels.flatten(1).where(counted, classes)
        given = answers.where(counted, classes)
        both = _counts(truth.where(truth == given, classes), classes)
        return both, _counts(truth, classes) + _counts(given, classes) - both

    def value(self, statistics: Statistics) -> float:
        """Return the mean."""
        both, either = (part.sum(dim=0).double() for part in statistics)
        seen = either > 0
        return (both[seen] / either[seen]).mean().item()


def _counts(pixels: Tensor, classes: int) -> Tensor:
    """Return how many pixels int64 [N, P] have each class, int64 [N, classes]; the class after the last is not counted."""
    rows = torch.arange(len(pixels)).unsqueeze(1) * (classes + 1)
    counts = torch.bincount((pixels + rows).flatten(), minlength=len(pixels) * (classes + 1))
    return counts.view(len(pixels), classes + 1)[:, :classes]


METRIC = MeanIou
