"""Counts of images, and intervals of estimates."""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Value

Number = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]


class Count(Value):
    """The number of images, of `total`, that were classified correctly."""

    correct: Number
    total: Number

    @model_validator(mode="after")
    def _of_all(self) -> Self:
        if self.correct > self.total:
            raise ValueError(f"correct is {self.correct}, more than the total of {self.total}")
        return self

    @property
    def fraction(self) -> float:
        """The share of correct images in [0, 1]; NaN without images."""
        return self.correct / self.total if self.total else math.nan


class Accuracy(Value):
    """Top-1 and top-5 counts over one data set.

    `chance` is the share that would be right if the same answers were assigned to the images at random; None where it was not counted.
    """

    top1: Count
    top5: Count
    chance: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Self:
        if self.top1.total != self.top5.total or self.top1.correct > self.top5.correct:
            raise ValueError(
                f"top1 has {self.top1.correct} of {self.top1.total} right and top5 {self.top5.correct} of {self.top5.total}: an image that "
                "is right in top1 is right in top5"
            )
        return self


class Interval(Value):
    """An estimate, and the bounds that contain the true value in the share `confidence` of all measurements."""

    estimate: Finite
    low: Finite
    high: Finite
    confidence: Annotated[float, Field(gt=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low <= self.estimate <= self.high:
            raise ValueError(
                f"the interval from {self.low:g} to {self.high:g} excludes its estimate of {self.estimate:g}"
            )
        return self
