"""What metrics of several labels per image share."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor


def labels_fault(logits: Tensor, labels: Tensor) -> str | None:
    """Return why labels are not several per image for logits [N, classes], or None."""
    if labels.is_floating_point() and labels.shape == logits.shape and logits.dim() == 2:
        return None
    return f"needs float labels {list(logits.shape)}, 1 for each class of an image, and got {labels.dtype} {list(labels.shape)}"


def mean_of_defined(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN if all are."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
