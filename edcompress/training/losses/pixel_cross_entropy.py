"""Pixel cross-entropy: a class per pixel, without the pixels of a label that is ignored."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pydantic import Field

from edcompress.core.frozen import Section
from edcompress.training.loss import LossFunction, LossRequest, ShippedLoss, class_weights, one_class_fault
from edcompress.training.losses.cross_entropy import Weights

if TYPE_CHECKING:
    from torch import Tensor


class Options(Section):
    """Options of the pixel cross-entropy."""

    class_weights: Weights | None = Field(None, description="balanced, or a weight for each class")
    ignore_index: int = Field(255, description="label of pixels that do not count")


class PixelCrossEntropy(ShippedLoss):
    """Cross-entropy of logits [N, classes, H, W] and labels int64 [N, H, W], the mean over the pixels that count."""

    options = Options

    def make(self, request: LossRequest) -> LossFunction:
        """Return the loss."""
        options = Options.model_validate(request.options)
        weights = class_weights(options.class_weights, request)
        return partial(_pixels, weights=weights, smoothing=request.smoothing, ignored=options.ignore_index)

    def check(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why labels do not fit logits."""
        return one_class_fault(logits, labels, dims=4)


def _pixels(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float, ignored: int) -> Tensor:
    from torch.nn import functional as F

    placed = None if weights is None else weights.to(logits.device)
    total = F.cross_entropy(
        logits, labels, weight=placed, ignore_index=ignored, label_smoothing=smoothing, reduction="sum"
    )
    counted = (labels != ignored).sum() if placed is None else placed[labels[labels != ignored]].sum()
    return total / counted.clamp_min(1e-12)  # without a pixel that counts the loss is 0


LOSS = PixelCrossEntropy()
