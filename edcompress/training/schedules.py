"""The learning rate as a function of how much of the training is done, and the optimizers."""

from __future__ import annotations

import math

from edcompress.core.recipe.training import TrainingConfig


def learning_rate(fit: TrainingConfig, progress: float, epoch: int) -> float:
    """The rate at `progress` in [0, 1) of all steps, in `epoch` counted from 0.

    onecycle: L. Smith and N. Topin, "Super-Convergence", 2018, with linear rise and cosine fall; cosine: I. Loshchilov and
    F. Hutter, "SGDR", 2017, without restarts, after a linear warm-up. Both rise over the first `warmup` (onecycle: at least 0.3).
    """
    if fit.schedule == "constant":
        return fit.lr
    if fit.schedule == "step":
        return float(fit.lr * fit.step_gamma ** (epoch // fit.step_epochs))
    rise = max(fit.warmup, 0.3) if fit.schedule == "onecycle" else fit.warmup
    if progress < rise:
        return fit.lr * (0.04 + 0.96 * progress / rise)
    return fit.lr * 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) if rise < 1 else fit.lr
