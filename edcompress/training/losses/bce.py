"""Binary cross-entropy: several labels per image, each right or wrong on its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from edcompress.core.errors import InputError
from edcompress.core.frozen import Section
from edcompress.training.loss import LossFunction, LossRequest, ShippedLoss

if TYPE_CHECKING:
    from torch import Tensor


class Options(Section):
    """Options of the binary cross-entropy."""

    positive_weights: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="for each class, how much more an image that has it counts"
    )


class BinaryCrossEntropy(ShippedLoss):
    """Binary cross-entropy of logits [N, classes] and labels float32 [N, classes] in [0, 1], the mean over both."""

    options = Options

    def make(self, request: LossRequest) -> LossFunction:
        """Return the loss."""
        import torch

        weights = Options.model_validate(request.options).positive_weights
        if weights is not None and len(weights) != request.classes:
            raise InputError(f"loss_options.positive_weights has {len(weights)} values for {request.classes} classes")
        given = None if weights is None else torch.tensor(weights)
        return partial(_bce, weights=given, smoothing=request.smoothing)

    def check(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why labels do not fit logits."""
        if not labels.is_floating_point() or labels.shape != logits.shape:
            found = f"{labels.dtype} {list(labels.shape)}"
            return f"needs float labels {list(logits.shape)}, 1 for each class of an image, and got {found}"
        return None if bool(((labels >= 0) & (labels <= 1)).all()) else "needs labels between 0 and 1"


def _bce(logits: Tensor, labels: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    from torch.nn import functional as F

    placed = None if weights is None else weights.to(logits.device)
    smoothed = labels.to(logits.dtype) * (1 - smoothing) + smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=placed)


LOSS = BinaryCrossEntropy()
