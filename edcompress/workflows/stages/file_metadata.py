"""What files say of the classes and images that their network is for, and where a recipe differs from that."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edcompress.core.errors import InputError
from edcompress.core.recipe.data import Data
from edcompress.core.results.report import WeightsSource
from edcompress.core.system.monitor import Monitor
from edcompress.core.system.tensor_files import read_metadata
from edcompress.data.transforms import OF_DATA_SET, preprocessing_spec
from edcompress.deploy.runtime.predictions import describe_onnx
from edcompress.runs.folder import RunFolder

CLASSES, PREPROCESSING = "edcompress.classes", "edcompress.preprocessing"
"""Keys of JSON texts in the metadata of ONNX files."""

TRAINING = "edcompress.training"
"""Key of the recipe's `training_settings` as JSON in the metadata of a file by `train`."""


WEIGHTS = "edcompress.weights"
"""Key of the `WeightsSource` as JSON in the metadata of a run's dense.safetensors, for weights by name."""


def weights_source(path: Path) -> WeightsSource | None:
    """Return where the weights in a file of a run came from; None where they were not given by name."""
    text = read_metadata(path).get(WEIGHTS)
    try:
        return None if text is None else WeightsSource.model_validate_json(text)
    except ValidationError:  # of another version
        return None


def require_alike(
    path: Path, data: Data, channels: int, classes: Sequence[str], monitor: Monitor, *, ignored: bool
) -> None:
    """Raise InputError if weights, a run or an ONNX file say that they are for other classes or images than the recipe's.

    `classes` are those of the recipe's `data`, and `channels` those of its images. If differences are `ignored`, they are an alarm.
    """
    if not (found := [*unlike_images(path, data, channels), *_unlike_classes(path, data, classes)]):
        return
    text = f"{path} is for images or classes other than the recipe's: {'; '.join(found)}"
    if not ignored:
        raise InputError(f"{text}; use the recipe that it was made with, or continue anyway with --ignore-metadata")
    monitor.alarm(text)


def unlike_images(path: Path, data: Data, channels: int) -> Iterator[str]:
    """Yield how the recipe's preprocessing differs from that in a weights file, run or ONNX file; nothing if the file has none."""
    theirs = _of_onnx_file(path) if path.suffix.lower() == ".onnx" else _of_recipe(path, channels)
    ours = preprocessing_spec(data, channels).model_dump(mode="json")
    own = theirs.get("own") == OF_DATA_SET  # which a recipe does not say
    for key in (key for key in theirs if key in ours and theirs[key] != ours[key] and not (own and key == "own")):
        yield f"{key} is {json.dumps(theirs[key])} there, and {json.dumps(ours[key])} in the recipe"


def _of_onnx_file(path: Path) -> Mapping[str, Any]:
    """Return the preprocessing that an ONNX file asks for, without what its own graph does, and what earlier versions do not say."""
    about = describe_onnx(path)
    found = _read(about.metadata, PREPROCESSING, dict) or {}
    unsaid = {"exif_orientation"} if found.get("exif_orientation") is None else set()
    without = unsaid | ({"mean", "std"} if about.takes_pixels else set())
    return {key: value for key, value in found.items() if key not in without}


def _of_recipe(path: Path, channels: int) -> Mapping[str, Any]:
    """Return the preprocessing in the recipe of a run, or of `train`; nothing for files by others or by another version."""
    try:
        if RunFolder(path).exists:
            data = RunFolder(path).read_recipe().data
        elif path.suffix.lower() == ".safetensors" and (training := _read(read_metadata(path), TRAINING, dict)):
            data = Data.model_validate(training.get("data"))
        else:
            return {}
    except ValidationError:
        return {}
    return preprocessing_spec(data, channels).model_dump(mode="json")


def _unlike_classes(path: Path, data: Data, classes: Sequence[str]) -> Iterator[str]:
    """Yield how the data's classes differ from those in an ONNX file, or in that of a run; shards have numbers, which are not names."""
    file = path / "pruned.onnx" if path.is_dir() else path
    numbered = data.facts.numbered_classes and data.class_index == "position"
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
    index = next(i for i, (one, other) in enumerate(zip(theirs, classes, strict=True)) if one != other)
    order = " (the same names in another order)" if sorted(map(str, theirs)) == sorted(classes) else ""
    yield f"class {index} is {theirs[index]} there, and {classes[index]} in the data{order}"


def _read(metadata: Mapping[str, str], key: str, kind: type) -> Any:
    """Return the value of this kind under a key; None if there is none, as in files by others."""
    try:
        value = json.loads(metadata.get(key, "null"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, kind) else None
