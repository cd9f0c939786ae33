"""What a run trains and measures: the losses and the metric of its recipe, opened and checked before any compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edcompress.core.errors import InputError
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.training import TrainingConfig
from edcompress.core.user_code import Trust
from edcompress.networks.modes import differentiable, evaluating
from edcompress.training.metric import Metric, open_metric
from edcompress.training.objective import Criterion, TrainingLabels, open_criterion
from edcompress.training.scores import on_cpu


@dataclass(frozen=True, eq=False)
class Task:
    """The metric, and the losses of the sections `finetune` and `train`; None: the cross-entropy of a network with one output."""

    finetune: Criterion | None = None
    train: Criterion | None = None
    metric: Metric = field(default_factory=lambda: open_metric("top1"))


NO_TASK = Task()
"""One output, one class per image, top-1."""


def open_task(
    model: Model, sections: Mapping[str, TrainingConfig], metric: str, labels: TrainingLabels, trust: Trust
) -> Task:
    """Return the task of a recipe.

    Args:
        model: Its model.
        sections: Its sections `finetune` and `train`.
        metric: Its metric.
        labels: The labels of the training images.
        trust: What of the user's code may be used.

    Raises:
        InputError: Code or options cannot be used.
    """
    opened = {name: open_criterion(name, config, model.output, labels, trust) for name, config in sections.items()}
    return Task(**opened, metric=open_metric(metric, trust))


def require_trainable_by(criterion: Criterion | None, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise InputError if a loss cannot train the network, tried on a copy in train mode with some images [N, C, H, W] and labels."""
    if criterion is None or any(
        isinstance(layer, nn.SyncBatchNorm) for layer in network.modules()
    ):  # trains on GPUs alone
        return
    copied = copy.deepcopy(network).train()
    with torch.random.fork_rng(devices=[]), differentiable(copied):
        criterion.require_fits(copied(images), labels)


@torch.no_grad()
def require_measurable_by(
    metric: Metric, network: nn.Module, chosen: str | None, images: Tensor, labels: Tensor
) -> None:
    """Raise InputError if a metric cannot be computed of what the network returns for some images [N, C, H, W] with these labels."""
    with evaluating(network):
        outputs = on_cpu(network(images), chosen)
    if why := metric.fault(outputs, labels):
        raise InputError(f"metric: {metric.info.name} {why}; choose another metric, or labels of that kind")
