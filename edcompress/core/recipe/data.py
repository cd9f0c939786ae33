"""Recipe section: the images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from edcompress.core.frozen import Fraction, Section
from edcompress.core.recipe.dataset_facts import DATASETS, DatasetFacts, facts_of
from edcompress.core.registry import one_of

Interpolation = Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"]
"""Pillow's resampling filters; all but nearest smooth the images that they make smaller."""

Augmentation = Literal["none", "crop", "crop_flip", "resized_crop"]

Orientation = Literal["apply", "ignore"]
"""Whether to apply the orientation that cameras store in EXIF."""

DEFAULT_BATCH = 128
"""Images per training step for `auto` without a CUDA device."""


def _as_batch_size(size: object) -> int | str | None:
    if size is None:
        return None
    text = str(size)
    if text != "auto" and not (text.isdecimal() and int(text) >= 2):
        raise ValueError("give auto, or a number of at least 2")
    return text if text == "auto" else int(text)


BatchSize = Annotated[int | Literal["auto"] | None, BeforeValidator(_as_batch_size)]


def _on_unit_scale(value: object) -> object:
    if isinstance(value, int | float) and 1 < value <= 255:  # a bool is refused before
        raise ValueError(f"give it on the 0..1 scale: {value:g} / 255 = {value / 255:.4g}")
    return value


OnUnitScale = BeforeValidator(_on_unit_scale)


class Data(Section):
    """The images: where they are, and how they are prepared for the network."""

    dataset: Annotated[str, one_of(DATASETS)] = Field(..., description="which data set")
    root: Path | None = Field(
        None, description="folder in torchvision's layout; else $EDCOMPRESS_DATA, else ~/.cache/edcompress"
    )
    folder: str = Field("", description="image_folder: the folder under root that holds train/ and val/")
    train_shards: str = Field(
        "", description="webdataset: tars under root to train on; braces expand, e.g. train-{000..146}.tar"
    )
    test_shards: str = Field("", description="webdataset: tars under root to test on")
    class_index: Literal["position", "imagenet"] = Field(
        "position",
        description="image_folder: number classes by position, or by ImageNet wnid (0..999); webdataset: name them by wnid",
    )
    download: bool = Field(False, description="let torchvision download what is missing under root")
    image_size: int = Field(..., ge=4, le=1024, description="height and width the network sees, in pixels")
    resize: int | None = Field(
        None, ge=4, le=2048, description="test images: short side before the centre crop, in pixels"
    )
    interpolation: Interpolation = Field("bilinear", description="Pillow's filter for resizing images")
    exif_orientation: Orientation = Field(
        "apply",
        description="image files: turn them as their EXIF orientation says, like viewers, or read them as stored, like torchvision",
    )
    channels: Literal[1, 3] | None = Field(
        None, description="convert images to grey (1) or RGB (3); default: as they are"
    )
    mean: tuple[Annotated[float, Field(ge=0, le=1), OnUnitScale], ...] = Field(
        (0.5,), description="per channel, of pixels in [0, 1]"
    )
    std: tuple[Annotated[float, Field(gt=0, le=1), OnUnitScale], ...] = Field(
        (0.5,), description="per channel, of pixels in [0, 1]"
    )
    augment: Augmentation | None = Field(
        None,
        description="training images: padded random crop, the same with flips, or random resized crop with flips; null: by image_size "
        "(from 64 resized_crop, from 24 crop, else none)",
    )
    crop_scale: Fraction = Field(
        0.35, description="resized_crop: smallest share of the image's area that a crop has; 0.08 suits long training"
    )
    crop_padding: int = Field(4, ge=0, le=64, description="pixels of zero padding for crop and crop_flip")
    search_fraction: float = Field(
        0.1, gt=0.0, lt=0.9, description="share of the images of search_from that is held out to judge states"
    )
    search_from: Literal["train", "test"] = Field(
        "train",
        description="hold out training images, or test images (for weights that were trained on all training images); the rest trains,"
        " or reports",
    )
    limit: int | None = Field(None, ge=8, description="use the first N training images only (quick runs)")
    batch_size: BatchSize = Field(
        None,
        description="images per training step, at least 2; auto: as many as fit the memory of a CUDA device, 128 on a CPU; null: 16 to "
        "128, by the number of training images",
    )
    eval_batch_size: int = Field(250, ge=1, description="images per batch when measuring accuracy")
    workers: int = Field(0, ge=0, le=64, description="processes that load images; 0 loads in the training process")
    skip_broken: bool = Field(
        False,
        description="leave out image files that cannot be decoded, and name them, up to ten or 1 % of the images, whichever is more;"
        " otherwise the first stops the run",
    )

    @property
    def facts(self) -> DatasetFacts:
        """The properties of `dataset`."""
        return facts_of(self.dataset)

    @property
    def step_images(self) -> int:
        """`batch_size` as a number, which a run finds for `auto` before its first step."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @model_validator(mode="after")
    def _required_keys_given(self) -> Self:
        required = self.facts.required_keys
        if not all(getattr(self, key) for key in required):
            raise ValueError(
                f"dataset {self.dataset} needs {' and '.join(required)}; give {'both' if len(required) == 2 else 'them'}"
            )
        return self

    @model_validator(mode="after")
    def _crop_inside(self) -> Self:
        if self.resize is not None and self.resize < self.image_size:
            raise ValueError(
                f"resize {self.resize} is below image_size {self.image_size}, which would give test images black borders; give at least "
                f"{self.image_size}, or null"
            )
        return self

    @model_validator(mode="after")
    def _stats_match(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}; give one per channel in both"
            )
        return self
