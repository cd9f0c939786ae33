"""What files say of the classes and images that their network is for, and where a recipe differs from that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edcompress.core.errors import InputError
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.monitor import Monitor
from edcompress.core.system.tensor_files import read_metadata
from edcompress.data.transforms import preprocessing_spec
from edcompress.deploy.runtime.predictions import describe_onnx
from edcompress.runs.folder import RunFolder

CLASSES, PREPROCESSING = "edcompress.classes", "edcompress.preprocessing"
"""Keys of the metadata of ONNX files, under which are JSON texts."""

TRAINING = "edcompress.training"
"""Key of the metadata of a file by `train`, under which is the recipe's `of_training` as JSON."""


def require_alike(path: Path, recipe: Recipe, classes: Sequence[str], monitor: Monitor, *, ignored: bool) -> None:
    """Raise InputError where a checkpoint, run or ONNX file says that it is for other classes or images than the recipe's.

    `classes` are those of the recipe's data. Where differences are to be `ignored`, they are an alarm.
    """
    if not (found := [*unlike_images(path, recipe), *_unlike_classes(path, recipe, classes)]):
        return
    text = f"{path} is for other images or classes than the recipe's: {'; '.join(found)}"
    if not ignored:
        raise InputError(f"{text}; give the recipe that it was made with, or go on all the same with --ignore-metadata")
    monitor.alarm(text)


def unlike_images(path: Path, recipe: Recipe) -> Iterator[str]:
    """How the recipe prepares images otherwise than a checkpoint, run or ONNX file says; nothing where it says nothing."""
    theirs = _of_file(path) if path.suffix.lower() == ".onnx" else _of_data(path, recipe)
    ours = preprocessing_spec(recipe.data, recipe.model.in_channels).model_dump(mode="json")
    for key in (key for key in theirs if key in ours and theirs[key] != ours[key]):
        yield f"{key} is {json.dumps(theirs[key])} there, and {json.dumps(ours[key])} by the recipe"


def _of_file(path: Path) -> Mapping[str, Any]:
    """The preprocessing that an ONNX file asks for, but for what is in its own graph, and for what earlier versions do not say."""
    about = describe_onnx(path)
    found = _read(about.metadata, PREPROCESSING, dict) or {}
    unsaid = {"exif_orientation"} if found.get("exif_orientation") is None else set()
    without = unsaid | ({"mean", "std"} if about.takes_pixels else set())
    return {key: value for key, value in found.items() if key not in without}


def _of_data(path: Path, recipe: Recipe) -> Mapping[str, Any]:
    """The preprocessing by the recipe of a run, or by that of `train`; nothing of files by others or by another version."""
    try:
        if RunFolder(path).exists:
            data = RunFolder(path).read_recipe().data
        elif path.suffix == ".safetensors" and (told := _read(read_metadata(path), TRAINING, dict)):
            data = Data.model_validate(told.get("data"))
        else:
            return {}
    except ValidationError:
        return {}
    return preprocessing_spec(data, recipe.model.in_channels).model_dump(mode="json")


def _unlike_classes(path: Path, recipe: Recipe, classes: Sequence[str]) -> Iterator[str]:
    """How the data's classes differ from those that an ONNX file, or that of a run, names; shards have numbers, which are no names."""
    file = path / "pruned.onnx" if path.is_dir() else path
    numbered = recipe.data.facts.numbered_classes and recipe.data.class_index == "position"
    theirs = (
        _read(describe_onnx(file).metadata, CLASSES, list)
        if file.suffix.lower() == ".onnx" and file.is_file()
        else None
    )
    if theirs is None or theirs == list(classes) or numbered:
        return
    if len(theirs) != len(classes):
        yield f"it has {len(theirs)} classes, the data {len(classes)}"
        return
    place = next(i for i, (one, other) in enumerate(zip(theirs, classes, strict=True)) if one != other)
    order = " (the same names in another order)" if sorted(map(str, theirs)) == sorted(classes) else ""
    yield f"class {place} is {theirs[place]} there, and {classes[place]} in the data{order}"


def _read(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """The value of this kind under a key; None where there is none, as in files by others."""
    try:
        value = json.loads(metadata.get(key, "null"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None
