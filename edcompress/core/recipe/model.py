"""Recipe section: the network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edcompress.core.frozen import Section


def _arch_name(name: str) -> str:
    if not re.fullmatch(r"(timm:)?[A-Za-z0-9_.-]+", name):  # load_pruned.py builds it by this name
        raise ValueError("write a name of letters, digits, _ . and -, after timm: for one of timm's")
    return name


Arch = Annotated[str, AfterValidator(_arch_name)]


def _factory_name(name: str) -> str:
    if not re.fullmatch(r"[\w.:-]+", name):
        raise ValueError("write package.module:callable, of letters, digits, _ . and -")
    return name


Factory = Annotated[str, AfterValidator(_factory_name)]


def _output_name(name: object) -> str:
    if isinstance(name, bool) or not re.fullmatch(r"[\w.-]+", str(name)):
        raise ValueError("write the key, field or position of one output, such as logits, out or 0")
    return str(name)


OutputName = Annotated[str, BeforeValidator(_output_name)]


class Model(Section):
    """The network to compress."""

    arch: Arch | None = Field(None, description="torchvision name, resnet20 ... resnet110 (CIFAR), or timm:NAME")
    factory: Factory | None = Field(None, description="your own network: package.module:callable (needs --trust-code)")
    object: str | None = Field(
        None,
        max_length=200,
        description="written by edcompress.prune in Python: the class of a network that was an object in memory",
    )
    stem: Literal["imagenet", "cifar"] = Field("imagenet", description="cifar: 3x3 stride-1 first layer, no max-pool")
    num_classes: int = Field(..., ge=2, le=1_000_000, description="width of the classifier")
    in_channels: int = Field(3, ge=1, le=16, description="channels of the network's input")
    ema: bool = Field(False, description="use the averaged weights of a file that holds both")
    output: OutputName | None = Field(
        None,
        description="which output counts where the network returns several: key of a dict, field of a dataclass, or position in a tuple"
        " from 0; null: the only one, or all of them for a loss and a metric of your own",
    )
    reset_head: bool = Field(
        False,
        description="start with a new classifier where the weights have a different number of classes (fine-tuning must train it)",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = sum(source is not None for source in (self.arch, self.factory, self.object))
        if given != 1:
            raise ValueError("give exactly one of arch and factory")
        return self

    @property
    def name(self) -> str:
        """The name of the network, of the user's factory, or of the class of an object in memory."""
        return self.arch or self.factory or str(self.object)

    @property
    def own(self) -> str | None:
        """What messages call a network of the user's own code; None for one of a library."""
        given = {"factory": self.factory, "object": self.object}
        return next((f"model.{key}: {name}" for key, name in given.items() if name is not None), None)


@dataclass(frozen=True)
class NetworkSpec:
    """A network to build: the recipe's model, the size of its images in pixels, and the seed of its random weights.

    `image_size` is the side of a square, or height and width.

    `searched`: it is trained by a search, with channels missing.
    """

    model: Model
    image_size: int | tuple[int, int]
    seed: int = 0
    searched: bool = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image that the network takes."""
        height, width = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2
        return self.model.in_channels, height, width
