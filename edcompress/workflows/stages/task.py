"""What a run trains and measures: the losses and the metric of its recipe, opened and checked before any compute."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edcompress.core.recipe.model import Model
from edcompress.core.recipe.training import TrainingConfig
from edcompress.networks.modes import differentiable
from edcompress.training.objective import Criterion, open_criterion


@dataclass(frozen=True, eq=False)
class Task:
    """The losses of the sections `finetune` and `train`; None: the cross-entropy of a network with one output."""

    finetune: Criterion | None = None
    train: Criterion | None = None


NO_TASK = Task()
"""One output, one class per image, top-1."""


def open_task(model: Model, sections: Mapping[str, TrainingConfig], labels: Tensor, *, trust_code: bool) -> Task:
    """Return the task of a recipe with these sections `finetune` and `train`, given the labels of all training images.

    Raises:
        InputError: Code or options cannot be used.
    """
    return Task(
        **{
            name: open_criterion(name, config, model.output, labels, model.num_classes, trust_code=trust_code)
            for name, config in sections.items()
        }
    )


def require_trainable_by(criterion: Criterion | None, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Raise InputError if a loss cannot train the network, tried on a copy in train mode with some images [N, C, H, W] and labels."""
    if criterion is None or any(
        isinstance(layer, nn.SyncBatchNorm) for layer in network.modules()
    ):  # trains on GPUs alone
        return
    copied = copy.deepcopy(network).train()
    with torch.random.fork_rng(devices=[]), differentiable(copied):
        criterion.require_fits(copied(images), labels)
