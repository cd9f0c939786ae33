"""Metrics other than counts of images: their words, their values, and the resampled drop between two models."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from edcompress.core.frozen import Value
from edcompress.core.results.counts import Accuracy, Count, Finite, Interval, Number, Positive

COUNTED = ("top1", "top5")
"""Metrics that count images, whose drops have exact intervals."""

QUANTILES = 201
"""How many quantiles of a resampled drop are kept: every half per cent."""


class MetricInfo(Value):
    """The metric by which networks are compared, higher is better: its name in recipes, its words, and whether it is a share in [0, 1]."""

    name: str
    label: str
    share: bool = True

    @property
    def counted(self) -> bool:
        """Whether it counts images."""
        return self.name in COUNTED

    @property
    def title(self) -> str:
        """The words at the start of a sentence."""
        return self.label[:1].upper() + self.label[1:]


TOP1 = MetricInfo(name="top1", label="top-1")


class Score(Value):
    """The value of a metric over so many images."""

    value: Finite
    images: Positive


class ScoreDrop(Value):
    """Dense minus other score on the same images, and its quantiles at equal steps from 0 to 1 when images are drawn with replacement.

    Attributes:
        value: The drop on the images themselves.
        quantiles: The smallest first; empty if the metric cannot be computed on most samples.
        resamples: The number of samples.
    """

    value: Finite
    quantiles: tuple[Finite, ...] = ()
    resamples: Number = 0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if any(one > other for one, other in zip(self.quantiles, self.quantiles[1:], strict=False)):
            raise ValueError("quantiles are not in ascending order")
        return self

    def interval(self, level: float) -> Interval | None:
        """Return the percentile interval, which holds the drop itself; None without quantiles.

        B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13: the quantiles at (1 - level) / 2 and above.
        """
        if not self.quantiles:
            return None
        low, high = self._at((1 - level) / 2), self._at((1 + level) / 2)
        return Interval(estimate=self.value, low=min(low, self.value), high=max(high, self.value), confidence=level)

    def _at(self, share: float) -> float:
        place = share * (len(self.quantiles) - 1)
        below = min(int(place), len(self.quantiles) - 2)
        low, high = self.quantiles[below], self.quantiles[below + 1]
        return low + (high - low) * (place - below)


class Scores(Value):
    """What was measured of a model on one set of images.

    Attributes:
        accuracy: Top-1 and top-5; None unless each image has one class.
        score: The recipe's metric; None if that is top-1 or top-5.
        metric: The recipe's metric.
    """

    accuracy: Accuracy | None = None
    score: Score | None = None
    metric: MetricInfo = TOP1

    @property
    def headline(self) -> Count | Score:
        """The recipe's metric: a count of images, or a score."""
        return headline_of(self.metric, self.accuracy, self.score)

    @property
    def plain(self) -> Accuracy | Self:
        """The accuracy alone if the metric is top-1 or top-5."""
        return self.accuracy if self.metric.counted and self.accuracy else self


def headline_of(metric: MetricInfo, accuracy: Accuracy | None, score: Score | None) -> Count | Score:
    """Return the count or score of a metric.

    Raises:
        ValueError: It was not measured.
    """
    found = score
    if metric.counted and accuracy is not None:
        return accuracy.top1 if metric.name == "top1" else accuracy.top5
    if found is None:
        raise ValueError(f"{metric.label} was not measured")
    return found


def value_of(headline: Count | Score) -> float:
    """Return a count as a share, NaN for no images, or the value of a score."""
    return headline.fraction if isinstance(headline, Count) else headline.value


def images_of(headline: Count | Score) -> int:
    """Return the number of images behind a count or score."""
    return headline.total if isinstance(headline, Count) else headline.images
