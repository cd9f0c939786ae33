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
from edcompress.core.results.scores import TOP1, Score, ScoreDrop, Scores
from edcompress.deploy.runtime.half_precision import faithful_session
from edcompress.deploy.runtime.parity import run_outputs
from edcompress.deploy.runtime.sessions import open_session
from edcompress.training.accuracy import accuracy_of_answers, by_class, count_agreeing, top_classes
from edcompress.training.metric import Metric, Statistics, paired_drop
from edcompress.training.scores import has_one_class


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for N images.

    Attributes:
        labels: int64 [N], or whatever else the data has.
        classes: The top classes of their logits int64 [N, K] (see `top_classes`); None unless each image has one class.
        metric: The recipe's metric, if it is not top-1 or top-5.
        statistics: What the metric needs of each image.
        score: Its value.
    """

    labels: Tensor
    classes: Tensor | None
    metric: Metric | None = None
    statistics: Statistics = ()
    score: Score | None = None

    @property
    def answers(self) -> Tensor:
        """The top classes; ValueError if images have no single class each."""
        if self.classes is None:
            raise ValueError("the images have no single class each")
        return self.classes

    @property
    def right1(self) -> Tensor:
        """Flags bool[N] of the images whose label is the top class."""
        return self.answers[:, 0] == self.labels

    @property
    def right5(self) -> Tensor:
        """Flags bool[N] of the images whose label is among the top five classes."""
        return (self.answers == self.labels.unsqueeze(1)).any(dim=1)

    @property
    def accuracy(self) -> Accuracy:
        """Top-1 and top-5 counts, and the share that is right by chance."""
        return accuracy_of_answers(self.labels, self.answers)

    @property
    def scores(self) -> Scores:
        """The recipe's metric, and the accuracy where each image has one class."""
        accuracy = None if self.classes is None else self.accuracy
        return Scores(accuracy=accuracy, score=self.score, metric=self.metric.info if self.metric else TOP1)

    def recalls(self, classes: int) -> Recalls | None:
        """Return the counts of each of so many classes; None unless each image has one."""
        if self.classes is None:
            return None
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
            same_class=count_agreeing(self.answers, dense.answers),
        )

    def drop_from(self, dense: Predictions) -> ScoreDrop | None:
        """Return the drop of the metric from the dense network's predictions for the same images; None for top-1 and top-5."""
        return paired_drop(self.metric, dense.statistics, self.statistics) if self.metric else None


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
    models: Mapping[str, Path], batches: Iterable[tuple[Tensor, Tensor]], classes: int, metric: Metric | None = None
) -> dict[str, Predictions]:
    """Return the predictions of each named ONNX file on the CPU, float16 as float16 (see `faithful_session`).

    Args:
        models: The files by name; each runs with as many threads as torch uses.
        batches: Pairs of images as `run_onnx` takes them and labels; every pair is read once.
        classes: The number of logits per image.
        metric: The recipe's metric; None, top-1 and top-5 count images.

    Raises:
        InputError: A file cannot be loaded, does not take the images or does not give outputs of their number, or there are no images.
    """
    opened = {name: faithful_session(path, torch.get_num_threads()) for name, path in models.items()}
    found = {name: _Collected(path, classes, _uncounted(metric)) for name, path in models.items()}
    labels = []
    for images, truth in batches:
        labels.append(truth.to("cpu"))
        for name, model in opened.items():
            found[name].add(run_outputs(model, images), labels[-1])
    if not labels:
        raise InputError(f"{', '.join(map(str, models.values()))}: no images to measure the accuracy on")
    return {name: collected.predictions(torch.cat(labels)) for name, collected in found.items()}


def _uncounted(metric: Metric | None) -> Metric | None:
    return None if metric is None or metric.info.counted else metric


class _Collected:
    """What is kept of the outputs of one file."""

    def __init__(self, path: Path, classes: int, metric: Metric | None) -> None:
        self._path, self._classes, self._metric = path, classes, metric
        self._answers: list[Tensor] = []
        self._statistics: list[Statistics] = []

    def add(self, outputs: dict[str, Tensor], labels: Tensor) -> None:
        """Keep what is needed of the outputs for a batch."""
        self._require_outputs(outputs, len(labels))
        first = next(iter(outputs.values()))
        if self._metric:
            self._statistics.append(self._metric.statistics(outputs, labels))
        if not self._metric or (len(outputs) == 1 and has_one_class(first, labels)):
            self._answers.append(top_classes(first))

    def predictions(self, labels: Tensor) -> Predictions:
        """Return the predictions for all images, with these labels."""
        classes = torch.cat(self._answers) if self._answers else None
        if self._metric is None:
            return Predictions(labels, classes)
        score, statistics = self._metric.score(self._statistics)
        return Predictions(labels, classes, self._metric, statistics, score)

    def _require_outputs(self, outputs: dict[str, Tensor], images: int) -> None:
        for logits in outputs.values():
            if len(logits) != images or (logits.ndim != 2 and not self._metric):
                raise InputError(f"{self._path}: gives {list(logits.shape)} for {images} images, not their logits")
            if (len(outputs) == 1 or not self._metric) and logits.shape[1:2] != (self._classes,):
                raise InputError(
                    f"{self._path}: gives {list(logits.shape)[1] if logits.ndim > 1 else 1} logits per image, and model.num_classes is "
                    f"{self._classes}; give the recipe of its network"
                )
            if not self._metric:  # further outputs of a classifier do not count
                return


def _pairs(dense: Tensor, other: Tensor) -> Pairs:
    """Count how two flags bool[N] go together."""
    return Pairs(
        both=int((dense & other).sum()),
        dense_only=int((dense & ~other).sum()),
        other_only=int((~dense & other).sum()),
        neither=int((~dense & ~other).sum()),
    )
