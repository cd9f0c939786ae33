"""Mean average precision: several labels per image, ranked by their scores; the mean over the labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edcompress.training.metric import LogitsMetric, Statistics
from edcompress.training.several_labels import labels_fault, mean_of_defined


class MeanAveragePrecision(LogitsMetric):
    """The sum over thresholds of precision times the gain in recall, the mean over labels float32 [N, classes] that an image has."""

    label = "mean average precision"

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return labels_fault(logits, labels)

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return scores float32 [N, classes] and whether images have the labels, bool [N, classes]."""
        return logits.float().nan_to_num(nan=-math.inf), labels > 0.5

    def value(self, statistics: Statistics) -> float:
        """Return the mean."""
        scores, has = statistics
        return mean_of_defined(_average_precision(scores[:, k], has[:, k]) for k in range(scores.shape[1]))


def _average_precision(scores: Tensor, has: Tensor) -> float:
    """Return the sum of (R_n - R_{n-1}) P_n over the distinct scores, the highest first; NaN without an image that has the label."""
    positive = int(has.sum())
    if not positive:
        return math.nan
    values, order = scores.sort(descending=True)
    right = has[order].double().cumsum(0)
    last = torch.cat([values[1:] != values[:-1], torch.ones(1, dtype=torch.bool)]).nonzero().flatten()
    right = right[last]
    gains = torch.diff(right, prepend=torch.zeros(1, dtype=torch.float64)) / positive
    return (gains * right / (last + 1)).sum().item()


METRIC = MeanAveragePrecision
