"""The interface of metrics, the user's own metric, and the drop between two models with its bootstrap.

A shipped metric is one module of `edcompress.training.metrics`, which sets METRIC. What it needs of each image is a row of its statistics,
so that a metric of any sample of the images is `value` of the rows of that sample.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from edcompress.core import registry
from edcompress.core.errors import InputError
from edcompress.core.recipe.recipe import METRICS
from edcompress.core.results.scores import QUANTILES, MetricInfo, Score, ScoreDrop
from edcompress.core.user_code import NO_TRUST, Trust, kind_of, users_code
from edcompress.networks.outputs import LOGITS, file_names, logits_of

Outputs = dict[str, Tensor]
"""The outputs that count, by name, float32 on the CPU."""

Statistics = tuple[Tensor, ...]
"""What a metric needs of each image: tensors [N, ...] on the CPU."""

MOST_RESAMPLES, FEWEST_RESAMPLES, NUMBERS = 1000, 200, 200_000_000
"""Samples of the bootstrap: the most, the fewest, and how many numbers all of them together may hold before there are fewer."""

COMPUTABLE = 0.95
"""The least share of samples on which a metric must have a value for the bootstrap to count."""

MetricFunction = Callable[[Any, Any], Any]
"""Maps the outputs and the labels of all test images to a number; higher is better."""


class Metric(ABC):
    """What networks are compared by."""

    resamples: int = MOST_RESAMPLES

    @property
    @abstractmethod
    def info(self) -> MetricInfo:
        """The name and the words of the metric."""

    @abstractmethod
    def fault(self, outputs: Outputs, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed of outputs and labels, or None."""

    @abstractmethod
    def statistics(self, outputs: Outputs, labels: Tensor) -> Statistics:
        """Return the statistics of a batch."""

    @abstractmethod
    def value(self, statistics: Statistics) -> float:
        """Return the metric over these images; NaN if it is not defined for them."""

    def score(self, batches: Sequence[Statistics]) -> tuple[Score, Statistics]:
        """Return the score of all batches, and their statistics joined.

        Raises:
            InputError: The metric is not defined for the images.
        """
        joined = tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
        value = self.value(joined)
        if not math.isfinite(value):
            raise InputError(
                f"metric: {self.info.label} is {value:g} on the {len(joined[0])} images; check that they have labels of more than one kind"
            )
        return Score(value=value, images=len(joined[0])), joined


class LogitsMetric(Metric):
    """A metric of the logits [N, classes, ...] of the one output that counts."""

    label: ClassVar[str]

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def info(self) -> MetricInfo:
        """The name and the words of the metric."""
        return MetricInfo(name=self.name, label=self.label)

    def fault(self, outputs: Outputs, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed, or None."""
        return self.logits_fault(logits_of(outputs), labels)

    def statistics(self, outputs: Outputs, labels: Tensor) -> Statistics:
        """Return the statistics of a batch."""
        return self.logits_statistics(logits_of(outputs), labels)

    @abstractmethod
    def logits_fault(self, logits: Tensor, labels: Tensor) -> str | None:
        """Return why the metric cannot be computed of logits and labels, or None."""

    @abstractmethod
    def logits_statistics(self, logits: Tensor, labels: Tensor) -> Statistics:
        """Return the statistics of logits [N, classes, ...] and labels."""


class OwnMetric(Metric):
    """The user's own metric: gets the output that counts, or all by name, and the labels, of all images at once."""

    resamples = FEWEST_RESAMPLES

    def __init__(self, function: MetricFunction, name: str) -> None:
        self.function, self.name = function, name
        self._names = [LOGITS]

    @property
    def info(self) -> MetricInfo:
        """The name and the words of the metric: those of the function."""
        words = self.name.rpartition(":")[2].replace("_", " ")
        return MetricInfo(name=self.name, label=words or self.name, share=False)

    def fault(self, outputs: Outputs, labels: Tensor) -> str | None:
        """Return why the metric has no value for a batch, or None."""
        value = self.value(self.statistics(outputs, labels))
        return None if math.isfinite(value) else f"is {value:g} on {len(labels)} of the images"

    def statistics(self, outputs: Outputs, labels: Tensor) -> Statistics:
        """Return the labels and the outputs of a batch."""
        self._names = file_names(list(outputs))
        return (labels, *outputs.values())

    def value(self, statistics: Statistics) -> float:
        """Return what the function returns for these images."""
        labels, *outputs = statistics
        given = outputs[0] if len(outputs) == 1 else dict(zip(self._names, outputs, strict=True))
        with users_code(f"metric: {self.name} failed in your code"):
            found = self.function(given, labels)
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"metric: {self.name} must return one number; it returned {kind_of(found)}") from None


def open_metric(name: str, trust: Trust = NO_TRUST) -> Metric:
    """Return the metric that a recipe names; InputError for code of the user's own that cannot be used."""
    if registry.is_path(name):
        return OwnMetric(trust.find("metric", name), name)
    found: Metric = registry.load(METRICS, name).METRIC(name)
    return found


@torch.no_grad()
def paired_drop(metric: Metric, dense: Statistics, other: Statistics) -> ScoreDrop:
    """Return dense minus other score on the same images, with the quantiles of drops on images drawn with replacement.

    The paired bootstrap: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993. Both models get the same sample each time,
    from a generator with a fixed seed. Samples for which the metric has no value are left out.
    """
    images, drops = len(dense[0]), []
    resamples = _resamples(metric, dense)
    generator = Generator().manual_seed(0)
    for _ in range(resamples):
        sample = torch.randint(images, (images,), generator=generator)
        drop = _value_on(metric, dense, sample) - _value_on(metric, other, sample)
        if math.isfinite(drop):
            drops.append(drop)
    value = metric.value(dense) - metric.value(other)
    if len(drops) < COMPUTABLE * resamples:
        return ScoreDrop(value=value)
    places = torch.linspace(0, 1, QUANTILES, dtype=torch.float64)
    quantiles = torch.tensor(drops, dtype=torch.float64).quantile(places).cummax(0).values
    return ScoreDrop(value=value, quantiles=tuple(quantiles.tolist()), resamples=len(drops))


def _resamples(metric: Metric, statistics: Statistics) -> int:
    numbers = sum(part.numel() for part in statistics)
    return max(min(metric.resamples, FEWEST_RESAMPLES), min(metric.resamples, NUMBERS // max(1, numbers)))


def _value_on(metric: Metric, statistics: Statistics, sample: Tensor) -> float:
    """Return the metric on a sample of the images; NaN if the user's own metric fails on it, as without an image of some class."""
    try:
        return metric.value(tuple(part[sample] for part in statistics))
    except InputError:
        return math.nan
