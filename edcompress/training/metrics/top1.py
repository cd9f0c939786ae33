"""Top-1: the share of images whose class has the largest logit."""

from __future__ import annotations

from torch import Tensor

from edcompress.training.accuracy import top_classes
from edcompress.training.loss import one_class_fault
from edcompress.training.metric import LogitsMetric, Statistics


class Top1(LogitsMetric):
    """The share of images whose class is the network's first answer."""

    label = "top-1"
    answers = 1

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return one_class_fault(logits, labels, dims=2)

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return whether each image is right, bool [N]."""
        return ((top_classes(logits)[:, : self.answers] == labels.unsqueeze(1)).any(dim=1),)

    def value(self, statistics: Statistics) -> float:
        """Return the share."""
        return statistics[0].double().mean().item()


METRIC = Top1
