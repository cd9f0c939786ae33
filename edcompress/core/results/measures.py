"""Measured values: accuracy, size and latency of a model, and the difference between two models.

Accuracies and ratios are fractions in [0, 1]; units stand in the names; `macs` counts multiply-accumulates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import Field, model_validator

from edcompress.core.frozen import Value
from edcompress.core.results.counts import Accuracy, Count, Interval, Number, Positive
from edcompress.core.results.scores import MetricInfo, Score, ScoreDrop, Scores, headline_of

__all__ = [
    "MOST_WAITED",
    "TOLERANCE",
    "Accuracy",
    "Count",
    "Environment",
    "Interval",
    "Latency",
    "ModelResult",
    "Paired",
    "Pairs",
    "Proof",
    "Proofs",
    "Rate",
    "Recalls",
    "Size",
]

MOST_WAITED = 0.05
"""The largest share of the measured time that threads may wait for their cores; beyond it their times are not trusted."""

TOLERANCE = 1e-4
"""The largest difference between the logits of two models that are proved equal, relative to the logits' largest magnitude."""

Share = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=1e-9, lt=1e12)]
"""The time of a call; the bounds exclude values that nobody can have measured."""


class Rate(Value):
    """A number of images in a number of seconds of wall time."""

    images: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Images per second."""
        return self.images / self.seconds


class Pairs(Value):
    """Counts of images that the dense network and another one classify correctly: both, only one of them, and neither."""

    both: Number
    dense_only: Number
    other_only: Number
    neither: Number

    @property
    def total(self) -> int:
        """The number of all images."""
        return self.both + self.dense_only + self.other_only + self.neither


class Paired(Value):
    """A model compared with the dense one on the same images; `same_class` counts those to which both give the same top class."""

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
                f"same_class is {self.same_class}, but of {images} images both are right on {self.top1.both} and only one on "
                f"{self.top1.dense_only + self.top1.other_only}"
            )
        return self

    @property
    def agreement(self) -> float:
        """The share of the images with the same top class, in [0, 1]."""
        return self.same_class / self.top1.total


class Recalls(Value):
    """Counts per class, in index order: its test images, those of them that are right, and all images that were given this class."""

    images: tuple[Number, ...]
    right: tuple[Number, ...]
    given: tuple[Number, ...]

    @model_validator(mode="after")
    def _of_the_same_classes(self) -> Self:
        if not len(self.images) == len(self.right) == len(self.given):
            raise ValueError(
                f"{len(self.images)} classes have images, {len(self.right)} right ones and {len(self.given)} given ones"
            )
        for number, (images, right, given) in enumerate(zip(self.images, self.right, self.given, strict=True)):
            if right > min(images, given):
                raise ValueError(f"class {number} has {right} right of {images} images, and was given to {given}")
        return self


class Size(Value):
    """The cost of a network for one image: parameters, multiply-accumulates, and bytes of its ONNX file once exported."""

    params: Number
    macs: Number
    onnx_bytes: Number | None = None


class Environment(Value):
    """The machine and software on which a latency was measured.

    Attributes:
        processor: The CPU's model name.
        cores: The cores to which the threads were pinned; empty where the system cannot pin them.
        governor: The governor of their clock rate; None where the system has none, as in virtual machines.
        system: The operating system.
        python: The version of Python.
        onnxruntime: The version of onnxruntime.
    """

    processor: str
    cores: tuple[int, ...]
    governor: str | None
    system: str
    python: str
    onnxruntime: str


class Latency(Value):
    """Percentiles, in milliseconds, of `n` onnxruntime calls at one batch size, from a number of fresh `processes`.

    Attributes:
        speedup: The factor by which the median call is faster than that of the first model of the measurement; None for that model.
        peak_bytes: The peak resident memory of a process that opened and ran only this model, less its memory before opening the file;
            None where the system does not say.
        waited: The share of the measurement's time in which its threads were ready to run but did not, since other processes had their
            cores or a CPU quota stopped them; the mean over the processes. None where the system does not say.
        throttled: The share of the quota's periods in which it stopped the threads; the mean over the processes. None without a quota.
        environment: The machine and software; None in reports by earlier versions.
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
            raise ValueError(
                f"p50, p90 and p99 are not in ascending order: {self.p50:g}, {self.p90:g}, {self.p99:g} ms"
            )
        return self

    @property
    def lost(self) -> float:
        """The known share of lost time: `waited`, or where the system does not report it, `throttled`."""
        return (self.throttled if self.waited is None else self.waited) or 0.0


class ModelResult(Value):
    """All measurements of one model; None for those not made yet.

    Attributes:
        accuracy: Of the PyTorch network; None unless each image has one class.
        size: Its cost.
        latency_ms: Of the ONNX file, at the first batch size and number of threads of the recipe.
        onnx_accuracy: Of the ONNX file in onnxruntime.
        paired: The ONNX file compared with the dense network's, image by image.
        recalls: Of the ONNX file, class by class.
        more_latency_ms: Of the ONNX file, at the recipe's other batch sizes and numbers of threads.
        score: The recipe's metric of the PyTorch network, if it is not top-1 or top-5.
        onnx_score: The same of the ONNX file.
        score_drop: The dense ONNX file's score less that of this one, on the same images.
    """

    accuracy: Accuracy | None = None
    size: Size
    latency_ms: Latency | None = None
    onnx_accuracy: Accuracy | None = None
    paired: Paired | None = None
    recalls: Recalls | None = None
    more_latency_ms: tuple[Latency, ...] = ()
    score: Score | None = None
    onnx_score: Score | None = None
    score_drop: ScoreDrop | None = None

    @model_validator(mode="after")
    def _measured(self) -> Self:
        if self.accuracy is None and self.score is None:
            raise ValueError("neither an accuracy nor a score was measured")
        return self

    @classmethod
    def of(cls, scores: Scores, size: Size) -> Self:
        """Return the result of a PyTorch network."""
        return cls(accuracy=scores.accuracy, score=scores.score, size=size)

    def headline(self, metric: MetricInfo) -> Count | Score:
        """Return the recipe's metric of the PyTorch network: a count of images, or a score."""
        return headline_of(metric, self.accuracy, self.score)

    def onnx_headline(self, metric: MetricInfo) -> Count | Score | None:
        """Return the same of the ONNX file; None before the export."""
        if self.onnx_accuracy is None and self.onnx_score is None:
            return None
        return headline_of(metric, self.onnx_accuracy, self.onnx_score)

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """All measured latencies, that of the first setting first."""
        return (self.latency_ms, *self.more_latency_ms) if self.latency_ms else ()

    def with_onnx(
        self,
        onnx_bytes: int,
        latencies: Sequence[Latency],
        scores: Scores,
        recalls: Recalls | None,
        paired: Paired | None,
        drop: ScoreDrop | None = None,
    ) -> Self:
        """Return the result with what was measured of the ONNX file: the latency at the first setting comes first."""
        first, *more = latencies
        return self.model_copy(
            update={
                "size": self.size.model_copy(update={"onnx_bytes": onnx_bytes}),
                "latency_ms": first,
                "more_latency_ms": tuple(more),
                "onnx_accuracy": scores.accuracy,
                "recalls": recalls,
                "paired": paired,
                "onnx_score": scores.score,
                "score_drop": drop,
            }
        )

    def without_onnx(self) -> ModelResult:
        """Return the result of the PyTorch network alone."""
        size = self.size.model_copy(update={"onnx_bytes": None})
        return ModelResult(accuracy=self.accuracy, score=self.score, size=size)


class Proof(Value):
    """The largest absolute difference between two models' logits on the same images, and the logits' largest magnitude `scale`.

    For ONNX files also the mean absolute difference, and the number of images for which both models' top class is the same.
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
            if value is not None and value < 0:  # NaN comes from logits of NaN, of which a proof fails
                raise ValueError(f"{name} is {value:g}, but a magnitude is not negative")
        return self

    @property
    def relative(self) -> float:
        """The difference relative to the scale of the logits."""
        return self.max_abs_diff / self.scale if self.scale != 0 else self.max_abs_diff


class Proofs(Value):
    """The proofs of equality of one run, in the order in which they are made."""

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
