"""Macro F1: the mean over the classes of the harmonic mean of precision and recall; every class counts the same."""

from __future__ import annotations

import torch
from torch import Tensor

from edcompress.training.accuracy import top_classes
from edcompress.training.loss import one_class_fault
from edcompress.training.metric import LogitsMetric, Statistics


class MacroF1(LogitsMetric):
    """The mean of 2 TP / (2 TP + FP + FN) over the classes that images have or are given."""

    label = "macro F1"

    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return one_class_fault(logits, labels, dims=2)

    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return the class and the answer of each image, int64 [N] each; -1 without an answer."""
        return labels, top_classes(logits)[:, 0]

    def value(self, statistics: Statistics) -> float:
        """Return the mean F1."""
        labels, answers = statistics
        classes = int(max(labels.max(), answers.max())) + 1
        right = torch.bincount(labels[labels == answers], minlength=classes).double()
        both = torch.bincount(labels, minlength=classes) + torch.bincount(answers[answers >= 0], minlength=classes)
        seen = both > 0
        return (2 * right[seen] / both[seen]).mean().item()


METRIC = MacroF1
