"""Cross-entropy: one class per image, with optional weights of the classes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from edcompress.core.frozen import Section
from edcompress.training.loss import LossFunction, LossRequest, ShippedLoss, class_weights, one_class_fault

if TYPE_CHECKING:
    from torch import Tensor

Weights = Literal["balanced"] | tuple[Annotated[float, Field(ge=0)], ...]


class Options(Section):
    """Options of the cross-entropy."""

    class_weights: Weights | None = Field(None, description="balanced, or a weight for each class")


class CrossEntropy(ShippedLoss):
    """Cross-entropy of logits [N, classes] and labels int64 [N], or float32 [N, classes] where images are mixed."""

    options = Options
    one_label = True

    def make(self, request: LossRequest) -> LossFunction:
        """Return the loss."""
        weights = class_weights(Options.model_validate(request.options).class_weights, request)
        return partial(_cross_entropy, weights=weights, smoothing=request.smoothing)

    def check(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why labels do not fit logits."""
        return one_class_fault(logits, labels, dims=2)


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    from torch.nn import functional as F

    placed = None if weights is None else weights.to(logits.device)
    return F.cross_entropy(logits, labels, weight=placed, label_smoothing=smoothing)


LOSS = CrossEntropy()
