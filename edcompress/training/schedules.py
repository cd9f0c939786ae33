"""The learning rate as a function of training progress."""

from __future__ import annotations

import math

from edcompress.core.recipe.training import TrainingConfig


def learning_rate(config: TrainingConfig, progress: float, epoch: int) -> float:
    """Return the rate at `progress` in [0, 1) of all steps, in `epoch` counted from 0.

    onecycle: L. Smith and N. Topin, "Super-Convergence", 2018, with linear rise and cosine fall; cosine: I. Loshchilov and
    F. Hutter, "SGDR", 2017, without restarts, after a linear warm-up. Both rise over the first `warmup` (onecycle: at least 0.3).
    """
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "step":
        return float(config.lr * config.step_gamma ** (epoch // config.step_epochs))
    rise = max(config.warmup, 0.3) if config.schedule == "onecycle" else config.warmup
    if progress < rise:
        return config.lr * (0.04 + 0.96 * progress / rise)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) if rise < 1 else config.lr
