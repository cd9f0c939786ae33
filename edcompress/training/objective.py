"""What training minimises: a loss of the outputs that count, and soft labels of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.core import registry
from edcompress.core.errors import InputError
from edcompress.core.recipe.training import LOSSES, TrainingConfig
from edcompress.core.user_code import Trust, kind_of, users_code
from edcompress.networks.outputs import auxiliary_outputs, logits_of, outputs_of
from edcompress.training.accuracy import Forward
from edcompress.training.loss import LossFunction, LossRequest, ShippedLoss, one_class_fault


@dataclass(frozen=True, eq=False)
class Criterion:
    """A loss of what a network returns.

    Attributes:
        function: Gets the logits float32 that `output` chooses, or without a `fault`, as the user's own loss, all that the network returns.
        fault: Returns why labels do not fit logits, or None; None for the user's own loss, which nobody else can check.
        name: What messages call it.
        output: The recipe's `model.output`.
        one_label: Whether images have one class each, so that states can be compared by margins.
        several_labels: Whether images may have several classes, so that a teacher's answers are probabilities of each class alone.
        plain: Whether it is the cross-entropy without options.
        aux_weight: The weight of each auxiliary output.
    """

    function: LossFunction
    fault: Callable[[Tensor, Tensor], str | None] | None = None
    name: str = "finetune.loss"
    output: str | None = None
    one_label: bool = True
    several_labels: bool = False
    plain: bool = True
    aux_weight: float = 0.3

    def __call__(self, output: Any, labels: Tensor) -> Tensor:
        """Return the loss, a scalar; InputError if the user's own loss fails or is not a scalar."""
        if self.fault is None:
            return self._own_loss(output, labels)
        loss: Tensor = self.function(logits_of(output, self.output).float(), labels)
        for auxiliary in auxiliary_outputs(output, self.output) if self.aux_weight else ():
            loss = loss + self.aux_weight * self.function(auxiliary.float(), labels)
        return loss

    def _own_loss(self, output: Any, labels: Tensor) -> Tensor:
        given = output.float() if isinstance(output, Tensor) else output
        with users_code(f"{self.name} failed in your code"):
            loss = self.function(given, labels)
        if not isinstance(loss, Tensor) or loss.dim() or not loss.is_floating_point():
            shape = f"a tensor {list(loss.shape)} of {loss.dtype}" if isinstance(loss, Tensor) else kind_of(loss)
            raise InputError(f"{self.name} must return a scalar tensor, the loss of the batch; it returned {shape}")
        return loss

    def require_fits(self, output: Any, labels: Tensor) -> None:
        """Raise InputError if the loss cannot be computed or trained on an output of the network and the labels of its images."""
        if self.fault and (why := self.fault(logits_of(output, self.output), labels)):
            raise InputError(f"{self.name} {why}; choose another loss, or labels of that kind")
        loss = self(output, labels)
        if not torch.isfinite(loss):
            raise InputError(
                f"{self.name} is {loss.item():g} on the first images, before any training; check it and the labels"
            )
        if not loss.requires_grad:
            raise InputError(
                f"{self.name} does not depend on what the network returns, so that nothing can be trained by it"
            )


def default_criterion(config: TrainingConfig) -> Criterion:
    """Return the cross-entropy, with the label smoothing of a recipe section."""
    return Criterion(partial(F.cross_entropy, label_smoothing=config.label_smoothing), fault=one_class_fault)


@dataclass(frozen=True, eq=False)
class TrainingLabels:
    """The labels of the training images: of all, None where only reading the images shows them, and of the first, [1, ...]."""

    all: Tensor | None
    first: Tensor
    classes: int


def open_criterion(
    section: str, config: TrainingConfig, output: str | None, labels: TrainingLabels, trust: Trust
) -> Criterion:
    """Return the loss that a recipe section asks for.

    Args:
        section: The name of the section, for messages.
        config: The section.
        output: The recipe's `model.output`.
        labels: The labels of the training images.
        trust: What of the user's code may be used.

    Raises:
        InputError: The user's own loss cannot be used, or the options do not fit the data.
    """
    key, several = f"{section}.loss", labels.first.is_floating_point()
    _require_mixable(section, config)
    if config.loss_is_own:
        own = trust.find(key, config.loss)
        return own_criterion(own, f"{key}: {config.loss}", output, several_labels=several)
    shipped: ShippedLoss = registry.load(LOSSES, config.loss).LOSS
    return Criterion(
        shipped.make(LossRequest(config.loss_options, config.label_smoothing, labels.all, labels.classes)),
        shipped.check,
        f"{key}: {config.loss}",
        output,
        one_label=shipped.one_label,
        several_labels=several,
        plain=config.loss == "cross_entropy" and not config.loss_options,
        aux_weight=config.aux_weight,
    )


def _require_mixable(section: str, config: TrainingConfig) -> None:
    """Raise InputError if images are to be mixed for a loss that takes no shares of classes."""
    if (config.mixup or config.cutmix) and (
        config.loss_is_own or not registry.load(LOSSES, config.loss).LOSS.one_label
    ):
        raise InputError(
            f"{section}.mixup and {section}.cutmix mix the classes of two images, which {section}.loss {config.loss} does not take; set "
            "both to 0, or take cross_entropy or focal"
        )


def own_criterion(
    function: LossFunction, name: str, output: str | None = None, *, several_labels: bool = False
) -> Criterion:
    """Return a loss of the user's own, which gets all that the network returns, and the labels."""
    return Criterion(
        function, None, name, output, one_label=False, several_labels=several_labels, plain=False, aux_weight=0.0
    )


@dataclass(frozen=True)
class Objective:
    """A loss, and soft labels of a teacher (G. Hinton et al., "Distilling the Knowledge", 2015)."""

    config: TrainingConfig
    teacher: Forward | None = None
    criterion: Criterion | None = None

    def loss(self, logits: Any, images: Tensor, labels: Tensor) -> Tensor:
        """Return (1 - a) L(logits, labels) + a T^2 KL(teacher / T || logits / T), a scalar; a = 0 without a teacher."""
        criterion = self.criterion or default_criterion(self.config)
        hard = criterion(logits, labels)
        a, T = self.config.distill, self.config.distill_temperature
        if self.teacher is None or a == 0:
            return hard
        with torch.no_grad():
            wanted = outputs_of(self.teacher(images), criterion.output)
        given = outputs_of(logits, criterion.output)
        if given.keys() != wanted.keys():
            raise InputError(
                f"finetune.distill: the network gives {', '.join(given)} in train mode and {', '.join(wanted)} in eval mode; choose the "
                "output that learns from the dense network's with model.output, or set finetune.distill=0"
            )
        parts = [_soft_loss(given[name], wanted[name], T, sigmoid=criterion.several_labels) for name in wanted]
        return (1 - a) * hard + a * T**2 * sum(parts[1:], parts[0]) / len(parts)


def _soft_loss(logits: Tensor, teacher: Tensor, T: float, *, sigmoid: bool) -> Tensor:
    """Return KL(teacher / T || logits / T) along dimension 1, the mean over images and pixels; with several labels the BCE of each."""
    if sigmoid:
        return F.binary_cross_entropy_with_logits(logits.float() / T, torch.sigmoid(teacher.float() / T))
    wanted = F.softmax(teacher.float() / T, dim=1)
    divergence = F.kl_div(F.log_softmax(logits.float() / T, dim=1), wanted, reduction="batchmean")
    return divergence / logits[0, 0].numel()
