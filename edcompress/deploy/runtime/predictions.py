"""Predictions of ONNX files, image by image, and how often two files predict alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from edcompress.core.errors import InputError
from edcompress.core.results.measures import Accuracy, Paired, Pairs, Recalls
from edcompress.deploy.runtime.half_precision import faithful_session
from edcompress.deploy.runtime.parity import run_onnx
from edcompress.deploy.runtime.sessions import open_session
from edcompress.training.accuracy import accuracy_of, by_class, count_agreeing, top_classes


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N images: their `labels` int64 [N], and the top classes of their logits int64 [N, K] (see `top_classes`)."""

    labels: Tensor
    classes: Tensor

    @property
    def right1(self) -> Tensor:
        """Flags bool[N] of the images whose label is the top class."""
        return self.classes[:, 0] == self.labels

    @property
    def right5(self) -> Tensor:
        """Flags bool[N] of the images whose label is among the top five classes."""
        return (self.classes == self.labels.unsqueeze(1)).any(dim=1)

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 and top-5 counts, and the share that is right by chance."""
        count = int(max(self.labels.max(), self.classes.max())) + 1
        counts = (by_class(classes, count) for classes in (self.labels, self.classes[:, 0]))
        return accuracy_of(int(self.right1.sum()), int(self.right5.sum()), *counts)

    def recalls(self, classes: int) -> Recalls:
        """Return the counts of each of so many classes."""
        images, right, given = (
            by_class(found, classes).tolist()[:classes]
            for found in (self.labels, self.labels[self.right1], self.classes[:, 0])
        )
        return Recalls(images=images, right=right, given=given)

    def beside(self, dense: Predictions) -> Paired:
        """Pair these predictions with the dense network's on the same images; an image with no answer agrees with nothing.

        Raises:
            ValueError: The two are of different images.
        """
        if not torch.equal(self.labels, dense.labels):
            raise ValueError("predictions of different images cannot be paired")
        return Paired(
            top1=_pairs(dense.right1, self.right1),
            top5=_pairs(dense.right5, self.right5),
            same_class=count_agreeing(self.classes, dense.classes),
        )


class OnnxDescription(NamedTuple):
    """The metadata of an ONNX file, and whether it takes uint8 pixels, which it normalises itself."""

    metadata: dict[str, str]
    takes_pixels: bool


def describe_onnx(path: Path) -> OnnxDescription:
    """Read what an ONNX file says of itself; InputError where it cannot be loaded."""
    opened = open_session(path)
    types = [value.type for value in opened.inputs]
    return OnnxDescription(opened.metadata, types == ["tensor(uint8)"])


def predict(
    models: Mapping[str, Path], batches: Iterable[tuple[Tensor, Tensor]], classes: int
) -> dict[str, Predictions]:
    """Return the predictions of each named ONNX file on the CPU, float16 as float16 (see `faithful_session`).

    Args:
        models: The files by name; each runs with as many threads as torch uses.
        batches: Pairs of images as `run_onnx` takes them and labels [N]; every pair is read once.
        classes: The number of logits per image.

    Raises:
        InputError: A file cannot be loaded, does not take the images or does not give logits [N, classes], or there are no images.
    """
    opened = {name: faithful_session(path, torch.get_num_threads()) for name, path in models.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in models}
    labels = []
    for images, truth in batches:
        labels.append(truth.to("cpu"))
        for name, model in opened.items():
            logits = run_onnx(model, images)
            if logits.ndim != 2 or len(logits) != len(images):
                raise InputError(
                    f"{models[name]}: gives {list(logits.shape)} for {len(images)} images, not their logits"
                )
            if logits.shape[1] != classes:
                raise InputError(
                    f"{models[name]}: gives {logits.shape[1]} logits per image, and model.num_classes is {classes}; give the recipe of "
                    "its network"
                )
            found[name].append(top_classes(logits))
    if not labels:
        raise InputError(f"{', '.join(map(str, models.values()))}: no images to measure the accuracy on")
    return {name: Predictions(torch.cat(labels), torch.cat(classes)) for name, classes in found.items()}


def _pairs(dense: Tensor, other: Tensor) -> Pairs:
    """Count how two flags bool[N] go together."""
    return Pairs(
        both=int((dense & other).sum()),
        dense_only=int((dense & ~other).sum()),
        other_only=int((~dense & other).sum()),
        neither=int((~dense & ~other).sum()),
    )
