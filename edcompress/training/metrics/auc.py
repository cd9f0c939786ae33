"""AUC: how often an image of a class has a higher score for it than one that is not of it; the mean over the classes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.training.loss import one_class_fault
from edcompress.training.metric import LogitsMetric, Statistics
from edcompress.training.several_labels import labels_fault, mean_of_defined


class Auc(LogitsMetric):
    """The area under the ROC curve of each class against the others, the mean over classes; with two classes that of the second.

    One class per image, int64 [N], or several labels, float32 [N, classes].
    """

    label = "AUC"

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return labels_fault(logits, labels) if labels.is_floating_point() else one_class_fault(logits, labels, dims=2)

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return scores float64 [N, classes] and whether images have the labels, bool [N, classes]."""
        scores = logits.double().nan_to_num(nan=-math.inf)
        if labels.is_floating_point():
            return scores, labels > 0.5
        classes = logits.shape[1]
        probabilities, has = scores.softmax(dim=1).nan_to_num(nan=0.0), F.one_hot(labels, classes).bool()
        return (probabilities, has) if classes > 2 else (probabilities[:, 1:], has[:, 1:])

    def value(self, statistics: Statistics) -> float:
        """Return the mean area."""
        scores, has = statistics
        return mean_of_defined([_area(scores[:, k], has[:, k]) for k in range(scores.shape[1])])


def _area(scores: Tensor, has: Tensor) -> float:
    """Return (R - P (P + 1) / 2) / (P Q) with R the sum of the ranks, ties sharing theirs, of P images with the label among P + Q."""
    positive = int(has.sum())
    negative = len(has) - positive
    if not positive or not negative:
        return math.nan
    _, where, counts = torch.unique(scores, return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    ranks = (ends - (counts - 1) / 2)[where]
    total: float = ranks[has].sum().item()
    return (total - positive * (positive + 1) / 2) / (positive * negative)


METRIC = Auc
