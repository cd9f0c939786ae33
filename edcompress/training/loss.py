"""The interface of shipped losses, and the losses of a run: shipped or the user's own, on the outputs that count.

A shipped loss is one module of `edcompress.training.losses`, which sets LOSS. Recipes are checked against it without loading torch, so
that these modules import torch inside their functions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from edcompress.core.errors import InputError
from edcompress.core.frozen import Section
from edcompress.core.recipe.search import NoOptions

if TYPE_CHECKING:
    from torch import Tensor

LossFunction = Callable[[Any, Any], Any]
"""Maps outputs and labels to the loss, a scalar."""


@dataclass(frozen=True, eq=False)
class LossRequest:
    """What a loss is made for: its options, the label smoothing, the labels of all training images, and the number of classes.

    Labels are None where only reading the images shows them.
    """

    options: Mapping[str, Any]
    smoothing: float
    labels: Tensor | None
    classes: int


class ShippedLoss(ABC):
    """Base of shipped losses.

    Attributes:
        options: The section that validates `loss_options`.
        one_label: Whether each image has one class, int64 [N], for logits [N, classes], so that states can be compared by margins.
    """

    options: ClassVar[type[Section]] = NoOptions
    one_label: ClassVar[bool] = False

    @abstractmethod
    def make(self, request: LossRequest) -> LossFunction:
        """Return the loss of float32 logits [N, classes, ...] and labels, a scalar tensor."""

    @abstractmethod
    def check(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why labels do not fit logits, or None if they do."""


def class_weights(weights: str | tuple[float, ...] | None, request: LossRequest) -> Tensor | None:
    """Return the weight of each class float32 [classes]: given ones, or "balanced": images / (classes x images of the class).

    Raises:
        InputError: The number of weights is not that of the classes, or a class has no training images.
    """
    import torch

    if weights is None:
        return None
    if not isinstance(weights, str):
        if len(weights) != request.classes:
            raise InputError(f"loss_options.class_weights has {len(weights)} values for {request.classes} classes")
        return torch.tensor(weights)
    if request.labels is None:
        raise InputError(
            "loss_options.class_weights: balanced needs the labels of all training images, which this data set shows only with the images; "
            f"give a list of {request.classes} weights"
        )
    labels = request.labels.flatten()
    counts = torch.bincount(labels[(labels >= 0) & (labels < request.classes)], minlength=request.classes)
    if absent := (counts == 0).nonzero().flatten().tolist():
        raise InputError(
            f"loss_options.class_weights: balanced: class {absent[0]} has no training images; give a list of {request.classes} weights"
        )
    return counts.sum() / (request.classes * counts.float())


def one_class_fault(logits: Tensor, labels: Tensor, dims: int | None = None) -> str | None:
    """Return why integer labels [N, ...] do not fit logits [N, classes, ...] of so many dimensions, or None."""
    wanted = (len(logits), *logits.shape[2:])
    if labels.is_floating_point() or tuple(labels.shape) != wanted:
        return f"needs whole-number labels {list(wanted)} for logits {list(logits.shape)}, and got {labels.dtype} {list(labels.shape)}"
    if dims is not None and logits.dim() != dims:
        kind = "one class per image" if dims == 2 else "a class per pixel"
        return f"is for {kind}, and the network gives {list(logits.shape)}"
    return None
