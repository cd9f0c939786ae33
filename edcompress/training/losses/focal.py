"""Focal loss: cross-entropy that counts images less, the surer the network already is of them."""

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
    """Options of the focal loss."""

    gamma: float = Field(2.0, ge=0.0, le=10.0, description="power of (1 - p) by which sure images count less")
    class_weights: Weights | None = Field(None, description="balanced, or a weight for each class")


class Focal(ShippedLoss):
    """Focal loss of logits [N, classes] and one class per image: T.-Y. Lin et al., "Focal Loss for Dense Object Detection", 2017."""

    options = Options
    one_label = True

    def make(self, request: LossRequest) -> LossFunction:
        """Return the loss."""
        options = Options.model_validate(request.options)
        weights = class_weights(options.class_weights, request)
        return partial(_focal, gamma=options.gamma, weights=weights, smoothing=request.smoothing)

    def check(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why labels do not fit logits."""
        return one_class_fault(logits, labels, dims=2)


def _focal(logits: Tensor, labels: Tensor, gamma: float, weights: Tensor | None, smoothing: float) -> Tensor:
    """Return mean_b sum_c -w_c q_c (1 - p_c)^gamma log p_c, over the mean weight of the labels; q are the smoothed labels."""
    import torch
    from torch.nn import functional as F

    classes = logits.shape[1]
    q = labels if labels.is_floating_point() else F.one_hot(labels, classes).to(logits.dtype)
    if weights is not None:
        placed = weights.to(logits.device)
        share = (q * placed).sum()
    else:
        placed, share = torch.ones(classes, device=logits.device), q.sum()
    q = q * (1 - smoothing) + smoothing / classes
    log_p = F.log_softmax(logits, dim=1)
    return -(placed * q * (1 - log_p.exp()) ** gamma * log_p).sum() / share


LOSS = Focal()
