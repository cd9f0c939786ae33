"""Measured values: accuracy, size, latency of a model, and how far two models are apart. `edcompress.results` composes them.

Accuracies and ratios are fractions in [0, 1]; units stand in the names; `macs` counts multiply-accumulates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Value

MOST_WAITED = 0.05
"""Share of the measured time that threads may have waited for their cores: beyond it their times are not to be trusted."""

TOLERANCE = 1e-4
"""Largest difference of two proved models' logits, relative to the logits' largest magnitude."""

Number = Annotated[int, Field(ge=0)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=1e-9, lt=1e12)]
"""Of a call: a millionth of a nanosecond is no time that was measured."""


class Rate(Value):
    """So many images in so many seconds of wall time."""

    images: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Count(Value):
    """How many of `total` images were classified correctly."""

    correct: Number
    total: Number

    @model_validator(mode="after")
    def _of_all(self) -> Self:
        if self.correct > self.total:
            raise ValueError(f"correct is {self.correct}, more than the total of {self.total}")
        return self

    @property
    def fraction(self) -> float:
        """Share of correct images in [0, 1]; NaN of no images."""
        return self.correct / self.total if self.total else math.nan


class Accuracy(Value):
    """Top-1 and top-5 counts over one data set.

    `chance` is the share that would be right if the same answers were dealt out to the images at random; None where it was not counted.
    """

    top1: Count
    top5: Count
    chance: Annotated[float, Field(ge=0, le=1)] | None = None

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Self:
        if self.top1.total != self.top5.total or self.top1.correct > self.top5.correct:
            raise ValueError(
                f"top1 has {self.top1.correct} of {self.top1.total} right and top5 {self.top5.correct} of {self.top5.total}: who is "
                "right in the first is among the five"
            )
        return self


class Pairs(Value):
    """Of the same images, how many the dense network and another one classify correctly: both, one of them only, and neither."""

    both: Number
    dense_only: Number
    other_only: Number
    neither: Number

    @property
    def total(self) -> int:
        """All images."""
        return self.both + self.dense_only + self.other_only + self.neither


class Paired(Value):
    """A model beside the dense one on the same images; `same_class` counts those to which both give the same top class."""

    top1: Pairs
    top5: Pairs
    same_class: Number

    @model_validator(mode="after")
    def _of_the_same_images(self) -> Self:
        images = self.top1.total
        if self.top5.total != images:
            raise ValueError(f"top1 pairs {images} images and top5 {self.top5.total}")
        if not self.top1.both <= self.same_class <= images - self.top1.dense_only - self.top1.other_only:
            raise ValueError(
                f"same_class is {self.same_class}, and of {images} images both are right on {self.top1.both} and one alone on "
                f"{self.top1.dense_only + self.top1.other_only}"
            )
        return self

    @property
    def agreement(self) -> float:
        """Share of the images with the same top class in [0, 1]."""
        return self.same_class / self.top1.total


class Recalls(Value):
    """Of each class, in index order: its test images, how many of them are right, and how many images in all were given this class."""

    images: tuple[Number, ...]
    right: tuple[Number, ...]
    given: tuple[Number, ...]

    @model_validator(mode="after")
    def _of_the_same_classes(self) -> Self:
        if not len(self.images) == len(self.right) == len(self.given):
            raise ValueError(
                f"{len(self.images)} classes have images, {len(self.right)} right ones and {len(self.given)} given ones"
            )
        for place, (images, right, given) in enumerate(zip(self.images, self.right, self.given, strict=True)):
            if right > min(images, given):
                raise ValueError(f"class {place} has {right} right of {images} images, and was given to {given}")
        return self


class Size(Value):
    """What a network costs for one image: parameters, multiply-accumulates, and bytes of its ONNX file once exported."""

    params: Number
    macs: Number
    onnx_bytes: Number | None = None


class Interval(Value):
    """An estimate, and the bounds that hold the true value in the share `confidence` of all measurements."""

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


class Environment(Value):
    """What a latency was measured on: `cores` are those that the threads were pinned to, none where the system pins nothing.

    `governor` steers their clock rate; None where the system names none, as virtual machines do.
    """

    processor: str
    cores: tuple[int, ...]
    governor: str | None
    system: str
    python: str
    onnxruntime: str


class Latency(Value):
    """Percentiles, in milliseconds, of `n` onnxruntime calls at one batch size, from some fresh `processes`.

    `speedup` is how many times faster the median call is than that of the first model measured beside it; None for that one.
    `peak_bytes` is the most resident memory of a process that opened and ran this model alone, less what it held before it opened the
    file; None where the system does not tell.
    `waited` is the share of the time of the whole measurement in which its threads were ready to run and did not, since other processes
    had their cores or a CPU quota stopped them; `throttled` the share of the quota's periods in which it stopped them. Both are the mean
    over the processes; None where the system does not tell, and where there is no quota.
    """

    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    n: Positive
    batch_size: Positive
    threads: Positive
    provider: str
    processes: Positive = 1
    speedup: Interval | None = None
    peak_bytes: int | None = None
    waited: Share | None = None
    throttled: Share | None = None
    environment: Environment | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.p50 <= self.p90 <= self.p99:
            raise ValueError(f"p50, p90 and p99 fall: {self.p50:g}, {self.p90:g}, {self.p99:g} ms")
        return self

    @property
    def lost(self) -> float:
        """The share of the time that is known to be lost; of a system that tells no waiting, of the periods that a quota cut short."""
        return (self.throttled if self.waited is None else self.waited) or 0.0


class ModelResult(Value):
    """All that is known of one model; what has not been measured yet is None.

    `accuracy` is of the PyTorch network, `onnx_accuracy` of the ONNX file in onnxruntime, `recalls` the file's class by class, and `paired`
    its images beside the dense network's file.
    `more_latency_ms` is of the further batch sizes and threads, where the recipe lists several.
    """

    accuracy: Accuracy
    size: Size
    latency_ms: Latency | None = None
    onnx_accuracy: Accuracy | None = None
    paired: Paired | None = None
    recalls: Recalls | None = None
    more_latency_ms: tuple[Latency, ...] = ()

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """All that were measured, the first setting's first."""
        return (self.latency_ms, *self.more_latency_ms) if self.latency_ms else ()

    def with_onnx(
        self,
        onnx_bytes: int,
        latencies: Sequence[Latency],
        accuracy: Accuracy,
        recalls: Recalls | None,
        paired: Paired | None,
    ) -> Self:
        """Return the result with what was measured of the ONNX file: the latency at the first setting comes first."""
        first, *more = latencies
        return self.model_copy(
            update={
                "size": self.size.model_copy(update={"onnx_bytes": onnx_bytes}),
                "latency_ms": first,
                "more_latency_ms": tuple(more),
                "onnx_accuracy": accuracy,
                "recalls": recalls,
                "paired": paired,
            }
        )

    def without_onnx(self) -> ModelResult:
        """Return the result of the PyTorch network alone."""
        return ModelResult(accuracy=self.accuracy, size=self.size.model_copy(update={"onnx_bytes": None}))


class Proof(Value):
    """Largest absolute difference of two models' logits on the same images, and the logits' largest magnitude `scale`.

    Of ONNX files also the mean absolute difference, and on how many of the images both models' best class is the same.
    """

    max_abs_diff: float
    scale: float
    of: str
    mean_abs_diff: float | None = None
    agreeing: Count | None = None

    @model_validator(mode="after")
    def _of_magnitudes(self) -> Self:
        for name in ("max_abs_diff", "scale", "mean_abs_diff"):
            value = getattr(self, name)
            if value is not None and value < 0:  # NaN is what logits of NaN give, and a proof of them fails
                raise ValueError(f"{name} is {value:g}, and no magnitude is negative")
        return self

    @property
    def relative(self) -> float:
        """The difference relative to the scale of the logits."""
        return self.max_abs_diff / self.scale if self.scale != 0 else self.max_abs_diff


class Proofs(Value):
    """The equalities of one run, in the order in which they are established."""

    masked_vs_pruned: Proof
    pruned_vs_reloaded: Proof
    dense_vs_onnx: Proof | None = None
    pruned_vs_onnx: Proof | None = None
    onnx_vs_pixels: Proof | None = None

    def with_onnx(self, dense: Proof, pruned: Proof, pixels: Proof | None) -> Self:
        """Return the proofs with those of the ONNX files."""
        return self.model_copy(update={"dense_vs_onnx": dense, "pruned_vs_onnx": pruned, "onnx_vs_pixels": pixels})

    def without_onnx(self) -> Proofs:
        """Return the proofs of the PyTorch networks alone."""
        return Proofs(masked_vs_pruned=self.masked_vs_pruned, pruned_vs_reloaded=self.pruned_vs_reloaded)
