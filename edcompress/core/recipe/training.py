"""Recipe sections: optimisation, and how often to save a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from edcompress.core import registry
from edcompress.core.frozen import Fraction, Section, Unit
from edcompress.core.registry import one_of_or_path

LOSSES = "training.losses"
"""The package of shipped losses, one module each."""


class TrainingConfig(Section):
    """How weights are trained; the schedule of `finetune` covers the search epochs too."""

    epochs: int = Field(8, ge=0, description="epochs after surgery (finetune) or in total (train)")
    optimizer: Literal["sgd", "adamw", "adadelta"] = Field("sgd", description="")
    lr: float = Field(0.05, gt=0.0, description="peak learning rate")
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="sgd only; Nesterov momentum where above 0")
    weight_decay: float = Field(5e-4, ge=0.0, description="")
    schedule: Literal["cosine", "onecycle", "step", "constant"] = Field("cosine", description="")
    warmup: Unit = Field(
        0.05, description="share of the steps in which the rate rises (cosine; onecycle: at least 0.3)"
    )
    step_epochs: int = Field(50, ge=1, description="step only: epochs between drops")
    step_gamma: Fraction = Field(0.1, description="step only: factor of each drop")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="")
    distill: Unit = Field(0.0, description="weight of the dense network's soft labels in the loss (finetune only)")
    loss: Annotated[str, one_of_or_path(LOSSES)] = Field(
        "cross_entropy",
        description="what training minimises; or your own, package.module:callable of (outputs, labels) (needs --trust-code)",
    )
    loss_options: Mapping[str, Any] = Field({}, description="keys that only this loss has, e.g. class_weights, gamma")
    aux_weight: float = Field(
        0.3,
        ge=0.0,
        le=10.0,
        description="weight of the loss of each auxiliary head (outputs called aux...) in training",
    )
    distill_temperature: float = Field(4.0, gt=0.0, description="softmax temperature of the soft labels")

    @field_validator("loss_options")
    @classmethod
    def _fit_the_loss(cls, options: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        loss = info.data.get("loss")
        if loss and registry.is_path(loss) and options:
            raise ValueError("a loss of your own has no options; set them in your function")
        if loss and not registry.is_path(loss):
            registry.load(LOSSES, loss).LOSS.options.model_validate(options)
        return options

    @property
    def loss_is_own(self) -> bool:
        """Whether the loss is the user's own code."""
        return registry.is_path(self.loss)


def _as_interval(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d{0,8} (steps|min)", text):
        raise ValueError("give a number of steps or minutes, such as '500 steps' or '10 min'")
    return text


class Checkpoints(Section):
    """How often a run is saved; nothing here changes its result."""

    checkpoint_every: Annotated[str, AfterValidator(_as_interval)] = Field(
        "10 min",
        description="how often to save a checkpoint within an epoch: '500 steps' or '10 min'; one is saved after every epoch too",
    )

    def due(self, steps: int, seconds: float) -> bool:
        """Return whether to save again, so many steps and seconds after the last time."""
        number, unit = self.checkpoint_every.split()
        return steps >= int(number) if unit == "steps" else seconds >= 60 * int(number)
