"""Recipe sections: optimisation, and how often to save a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from edcompress.core import registry
from edcompress.core.frozen import Fraction, Section, Unit
from edcompress.core.registry import one_of_or_path

LOSSES = "training.losses"
"""The package of shipped losses, one module each."""

Optimizer = Literal["sgd", "adamw", "adadelta"]

LARGEST_ADAPTIVE = 5e-3
"""Rate below which a recipe that names no optimizer means AdamW; SGD needs a larger one."""

ADAMW_DECAY, SGD_DECAY = 0.01, 5e-4

_OF_STAGE = ("restart", "teacher", "teacher_weights")
"""Keys of `finetune` that are not settings of an epoch."""

CHOSEN = "null: chosen from the network and the data when the run starts"


class _Common(Section):
    """Keys of training that have fixed defaults."""

    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="sgd only; Nesterov momentum where above 0")
    schedule: Literal["cosine", "onecycle", "step", "constant"] = Field("cosine", description="")
    step_epochs: int = Field(50, ge=1, description="step only: epochs between drops")
    step_gamma: Fraction = Field(0.1, description="step only: factor of each drop")
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="")
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
    mixup: float = Field(0.0, ge=0.0, le=10.0, description="alpha of mixup: two images are blended; 0: none")
    cutmix: float = Field(
        0.0, ge=0.0, le=10.0, description="alpha of cutmix: a part of an image is pasted into a second; 0: none"
    )
    ema: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="decay per step of an average of the weights, which is the result; 0: none (0.99 to 0.9999)",
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


class TrainingConfig(_Common):
    """How weights are trained, every value given."""

    epochs: int = Field(8, ge=0, description="epochs in total")
    optimizer: Optimizer = Field("sgd", description="")
    lr: float = Field(0.05, gt=0.0, description="peak learning rate")
    weight_decay: float = Field(SGD_DECAY, ge=0.0, description="of tensors with more than one dimension")
    warmup: Unit = Field(
        0.05, description="share of the steps in which the rate rises (cosine; onecycle: at least 0.3)"
    )
    distill: Unit = Field(0.0, description="weight of the dense network's soft labels in the loss (finetune only)")


class Finetune(_Common):
    """How weights are trained after surgery and, by the same schedule, in the search; what is null is chosen by the run."""

    epochs: int | None = Field(None, ge=0, description=f"epochs after surgery; {CHOSEN}")
    optimizer: Optimizer | None = Field(
        None, description=f"null: as `lr` suggests (adamw below {LARGEST_ADAPTIVE:g}, else sgd); without one, chosen"
    )
    lr: float | None = Field(None, gt=0.0, description=f"peak learning rate; {CHOSEN}")
    weight_decay: float | None = Field(
        None,
        ge=0.0,
        description=f"of tensors with more than one dimension; null: {ADAMW_DECAY:g} for adamw, else {SGD_DECAY:g}",
    )
    warmup: Unit | None = Field(
        None, description=f"share of the steps in which the rate rises (cosine; onecycle: at least 0.3); {CHOSEN}"
    )
    distill: Unit | None = Field(None, description=f"weight of the teacher's soft labels in the loss; {CHOSEN}")
    teacher: str | None = Field(
        None,
        description="a network to learn soft labels from in place of the dense one: a name as in `model.arch`, or package.module:callable "
        "(needs --trust-code); it takes the same images and has the same classes",
    )
    teacher_weights: Path | None = Field(None, description="the teacher's weights file")
    restart: bool = Field(
        False,
        description="let the schedule start again after surgery; otherwise one schedule covers search and fine-tuning",
    )

    @model_validator(mode="after")
    def _teacher_has_weights(self) -> Self:
        if (self.teacher is None) != (self.teacher_weights is None):
            raise ValueError("teacher and teacher_weights go together; give both or neither")
        return self

    @property
    def teacher_is_own(self) -> bool:
        """Whether the teacher is the user's own code: a path has a colon, as timm's networks have after "timm"."""
        return self.teacher is not None and registry.is_path(self.teacher) and not self.teacher.startswith("timm:")

    @property
    def config(self) -> TrainingConfig:
        """The settings, every value given; what is null and does not follow from `lr` has the default of `train`."""
        given = {name: value for name, value in self if value is not None and name not in _OF_STAGE}
        adaptive = self.lr is not None and self.lr < LARGEST_ADAPTIVE
        optimizer = self.optimizer or ("adamw" if adaptive else "sgd")
        decay = {"adamw": ADAMW_DECAY}.get(optimizer, SGD_DECAY)
        return TrainingConfig(**{"optimizer": optimizer, "weight_decay": decay, **given})


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

    keep_images: bool = Field(
        True,
        description="images of data sets that were objects in memory: keep those that test, up to 1 GiB, and some held-out ones, in the run"
        " folder, so that `edcompress export` needs no program",
    )

    def due(self, steps: int, seconds: float) -> bool:
        """Return whether to save again, so many steps and seconds after the last time."""
        number, unit = self.checkpoint_every.split()
        return steps >= int(number) if unit == "steps" else seconds >= 60 * int(number)
