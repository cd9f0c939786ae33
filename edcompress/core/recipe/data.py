"""Recipe section: the images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from edcompress.core.frozen import Fraction, Section
from edcompress.core.recipe.data_paths import beside
from edcompress.core.recipe.dataset_facts import DATASETS, DatasetFacts, facts_of
from edcompress.core.recipe.model import Factory
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


SMALLEST_SIDE, LARGEST_SIDE = 4, 1024
"""Of an image that the network sees, in pixels."""

MOST_CHANNELS = 16


def _as_image_size(size: object) -> int | tuple[int, int]:
    """Return one number for a square, and height and width for a rectangle."""
    sides = [size] if isinstance(size, int) else list(size) if isinstance(size, list | tuple) else []
    if len(sides) not in (1, 2) or any(type(side) is not int for side in sides):
        raise ValueError("give a number of pixels, or [height, width]")
    if min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
        raise ValueError(f"give sides from {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
    return sides[0] if len(set(sides)) == 1 else (sides[0], sides[1])


ImageSize = Annotated[int | tuple[int, int], BeforeValidator(_as_image_size)]
"""The side of a square in pixels, or height and width of a rectangle."""

PATH_KEYS = ("folder", "source", "train_shards", "test_shards")
"""Keys that name files or folders: relative to the recipe's folder, else to the data root."""


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
    folder: str = Field(
        "",
        description="image_folder: the folder that holds train/ and val/ (or test/), or one folder per class; relative to the recipe's"
        " folder, else to root",
    )
    source: str = Field(
        "",
        description="csv: the file; huggingface: a folder by save_to_disk, or owner/name on the hub; relative to the recipe's folder,"
        " else to root",
    )
    config: str | None = Field(
        None, description="huggingface: the configuration of a data set on the hub that has several"
    )
    image_column: str | None = Field(
        None,
        description="csv and huggingface: the column of the images, in csv their paths relative to the file; null: by its name",
    )
    label_column: str | None = Field(
        None, description="csv and huggingface: the column of the classes; null: by its name"
    )
    split_column: str | None = Field(
        None, description="csv: the column with train, val or test; null: `split` if there is one, else test_fraction"
    )
    factory: Factory | None = Field(
        None,
        description="your own data sets: package.module:callable, which returns train, val (or None) and test (needs --trust-code)",
    )
    fingerprint: str | None = Field(
        None, description="written by edcompress.prune in Python: a digest of data sets that were objects in memory"
    )
    test_fraction: float = Field(
        0.2, gt=0.0, lt=0.9, description="share of each class that tests where the data has no test images of its own"
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="fixes which images test_fraction takes, whatever the seed of the run"
    )
    transform: Factory | None = Field(
        None,
        description="your own transform of training images in place of resizing and augment: package.module:callable (needs"
        " --trust-code)",
    )
    eval_transform: Factory | None = Field(
        None, description="the same for all other images; what it returns must have the network's input shape"
    )
    train_shards: str = Field(
        "", description="webdataset: tars to train on; braces expand, e.g. train-{000..146}.tar; relative like folder"
    )
    test_shards: str = Field("", description="webdataset: tars to test on")
    class_index: Literal["position", "imagenet"] = Field(
        "position",
        description="image_folder: number classes by position, or by ImageNet wnid (0..999); webdataset: name them by wnid",
    )
    download: bool = Field(False, description="let torchvision download what is missing under root")
    image_size: ImageSize = Field(
        ..., description="height and width the network sees, in pixels: a number for a square, or [height, width]"
    )
    resize: int | None = Field(
        None, ge=4, le=2048, description="test images: short side before the centre crop, in pixels"
    )
    interpolation: Interpolation = Field("bilinear", description="Pillow's filter for resizing images")
    exif_orientation: Orientation = Field(
        "apply",
        description="image files: turn them as their EXIF orientation says, like viewers, or read them as stored, like torchvision",
    )
    channels: int | None = Field(
        None,
        ge=1,
        le=MOST_CHANNELS,
        description="convert images to grey (1) or RGB (3); other numbers are those of arrays (.npy, data.factory); default: as they are",
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
    flip: bool | None = Field(
        None,
        description="mirror half of the training images, left to right; null: as augment says, or, where that is null too, if the dense "
        "network recognises mirrored held-out images",
    )
    crop_scale: Fraction = Field(
        0.35, description="resized_crop: smallest share of the image's area that a crop has; 0.08 suits long training"
    )
    rand_augment: int = Field(
        0,
        ge=0,
        le=30,
        description="magnitude of RandAugment on training images, two changes each; 0: none; 9 suits long training",
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

    _base: Path | None = PrivateAttr(None)

    @property
    def base(self) -> Path | None:
        """The folder to which paths are relative before the data root; None where there is none, as for a run's recipe."""
        return self._base

    @property
    def own_code(self) -> dict[str, str]:
        """The user's own callables by key."""
        keys = ("factory", "transform", "eval_transform")
        return {f"data.{key}": spec for key in keys if (spec := getattr(self, key))}

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width that the network sees, in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    def __eq__(self, other: object) -> bool:
        """Return whether the keys are equal, whatever folder the recipe lies in."""
        return isinstance(other, Data) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        """Return the hash of the keys."""
        return hash(tuple(self.__dict__.values()))

    def located(self, base: Path) -> Self:
        """Return the section with absolute paths for what lies in `base`; the rest is looked for under the data root."""
        found: dict[str, Any] = {key: beside(base, getattr(self, key)) for key in PATH_KEYS}
        if self.root is not None and not self.root.is_absolute() and (base / self.root).is_dir():
            found["root"] = base / self.root
        located = self.model_copy(update={key: path for key, path in found.items() if path})
        return located._in_folder(base)

    def _in_folder(self, base: Path) -> Self:
        self._base = base
        return self

    @property
    def facts(self) -> DatasetFacts:
        """The properties of `dataset`."""
        return facts_of(self.dataset)

    @property
    def step_images(self) -> int:
        """`batch_size` as a number, which a run finds for `auto` before its first step."""
        assert isinstance(self.batch_size, int)
        return self.batch_size

    @model_validator(mode="before")
    @classmethod
    def _set_of_factory(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("factory") and "dataset" not in values:
            return {**values, "dataset": "factory"}
        return values

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if self.factory and self.dataset != "factory":
            raise ValueError(
                f"factory gives the images, so that dataset cannot be {self.dataset}; remove one of the two"
            )
        if self.transform and self.augment not in (None, "none"):
            raise ValueError(f"transform takes the place of augment, which is {self.augment}; set augment to none")
        if self.transform and self.flip:
            raise ValueError("transform takes the place of flip; remove flip, and mirror images in your transform")
        return self

    @model_validator(mode="after")
    def _required_keys_given(self) -> Self:
        required = self.facts.required_keys
        if not all(getattr(self, key) for key in required):
            raise ValueError(
                f"dataset {self.dataset} needs {' and '.join(required)}; give {'both' if len(required) == 2 else 'it'}"
            )
        return self

    @model_validator(mode="after")
    def _crop_inside(self) -> Self:
        longest = max(self.height_width)
        if self.resize is not None and self.resize < longest:
            raise ValueError(
                f"resize {self.resize} is below image_size {longest}, which would give test images black borders; give at least "
                f"{longest}, or null"
            )
        return self

    @model_validator(mode="after")
    def _stats_match(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std has {len(self.std)}; give one per channel in both"
            )
        return self
