"""Mixup and cutmix: training images that are made of two, with the labels of both."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.transforms import v2

from edcompress.core.recipe.training import TrainingConfig

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Takes images [N, C, H, W] and labels int64[N]; returns images of the same shape and probabilities float32[N, classes]."""


def make_mix(config: TrainingConfig, classes: int) -> Mix | None:
    """Return what mixes the images of a step, drawing from torch's default generator; None where the config mixes none.

    H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018, and S. Yun et al., "CutMix", 2019, by torchvision. With both, each
    step takes one of them with a probability of one half.
    """
    kinds = [
        *([v2.MixUp(alpha=config.mixup, num_classes=classes)] if config.mixup else []),
        *([v2.CutMix(alpha=config.cutmix, num_classes=classes)] if config.cutmix else []),
    ]
    return v2.RandomChoice(kinds) if kinds else None
