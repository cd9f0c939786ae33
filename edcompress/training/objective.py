"""Cross-entropy and distillation loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from edcompress.core.recipe.training import TrainingConfig
from edcompress.training.accuracy import Forward


@dataclass(frozen=True)
class Objective:
    """Cross-entropy with label smoothing, and soft labels of a teacher (G. Hinton et al., "Distilling the Knowledge", 2015)."""

    config: TrainingConfig
    teacher: Forward | None = None

    def loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Return (1 - a) CE(logits, labels) + a T^2 KL(teacher / T || logits / T), a scalar; a = 0 without a teacher."""
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)
        a, T = self.config.distill, self.config.distill_temperature
        if self.teacher is None or a == 0:
            return hard
        with torch.no_grad():
            wanted = F.softmax(self.teacher(images).float() / T, dim=1)
        soft = F.kl_div(F.log_softmax(logits.float() / T, dim=1), wanted, reduction="batchmean")
        return (1 - a) * hard + a * T**2 * soft
