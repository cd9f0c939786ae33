"""Recipe section: the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edcompress.core.frozen import Section


def _arch_name(name: str) -> str:
    if not re.fullmatch(r"(timm:)?[A-Za-z0-9_.-]+", name):  # it is written into load_pruned.py
        raise ValueError("a name has letters, digits, _ . and -, after timm: where it is one of timm's")
    return name


Arch = Annotated[str, AfterValidator(_arch_name)]


def _factory_name(name: str) -> str:
    if not re.fullmatch(r"[\w.:-]+", name):
        raise ValueError("write package.module:callable, of letters, digits, _ . and -")
    return name


Factory = Annotated[str, AfterValidator(_factory_name)]


class Model(Section):
    """The network to compress."""

    arch: Arch | None = Field(None, description="torchvision name, resnet20 ... resnet110 (CIFAR), or timm:NAME")
    factory: Factory | None = Field(None, description="your own network: package.module:callable (needs --trust-code)")
    stem: Literal["imagenet", "cifar"] = Field("imagenet", description="cifar: 3x3 stride-1 first layer, no max-pool")
    num_classes: int = Field(..., ge=2, le=1_000_000, description="width of the classifier")
    in_channels: int = Field(3, ge=1, le=16, description="channels of the network's input")
    ema: bool = Field(False, description="take the averaged weights of a training checkpoint that holds both")
    reset_head: bool = Field(
        False,
        description="begin a new classifier where the checkpoint's has another number of classes (fine-tuning must train it)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.arch is None) == (self.factory is None):
            raise ValueError("give exactly one of arch and factory")
        return self

    @property
    def called(self) -> str:
        """What the network goes by: its name, or the user's factory."""
        return self.arch or str(self.factory)

    @property
    def flags(self) -> list[str]:
        """What a command line has to add for this network to be built."""
        return ["--trust-code"] if self.factory else []


@dataclass(frozen=True)
class NetworkSpec:
    """A network to build: the recipe's model, the side of its images in pixels, and the seed of its random weights.

    `searched`: it is trained by a search, with channels missing.
    """

    model: Model
    image_size: int
    seed: int = 0
    searched: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image that the network takes."""
        return self.model.in_channels, self.image_size, self.image_size
