"""Schema of report.json and sweep.json, in the units of `edcompress.core.results.measures`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from edcompress.core.frozen import Value
from edcompress.core.recipe.data import Interpolation, Orientation
from edcompress.core.recipe.gate import Gate
from edcompress.core.results.measures import Count, Interval, Latency, ModelResult, Proof, Proofs
from edcompress.core.results.scores import TOP1, MetricInfo, Score
from edcompress.core.results.verdict import Verdict

TOP5 = 5
"""The number of classes up to which every image is right in the top five."""


class Preprocessing(Value):
    """The steps from an image to the network's input, stored in the ONNX files and in the model card.

    First a file is turned as its EXIF says, where `exif_orientation` is "apply"; it is None in files by earlier versions, which read
    images as stored. `resize` is the short side in pixels before the centre crop to `image_size` (the side of a square, or height and
    width); without it the image is resized to that size. Then (pixels / 255 - mean) / std, channel by channel, in the order of
    `channels`; "stored" is that of arrays of other numbers of channels.

    `own` is None, or names what prepares an image in place of all this but its size: the user's transform, or "data set".
    """

    channels: Literal["RGB", "L", "stored"]
    image_size: int | tuple[int, int]
    resize: int | None
    crop: Literal["center"] | None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    exif_orientation: Orientation | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW"] = "NCHW"
    own: str | None = None

    @property
    def height_width(self) -> tuple[int, int]:
        """Height and width of the network's input in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)


VariantName = Literal["fp16", "int8"]


class Variant(Value):
    """A version of pruned.onnx in another precision, measured beside it; `parity` compares it with the PyTorch network in fp32."""

    file: str
    measured: ModelResult
    parity: Proof


class Shipping(Value):
    """The file to ship, None where none is within the gate's limits, and the reason."""

    file: str | None
    why: str


class TargetResult(Value):
    """The target, and the result.

    Attributes:
        kind: The quantity that the target limits; "none" without a target.
        asked: The share of the dense network to keep, or for max_top1_drop and max_drop the allowed drop.
        achieved: The share that is left after surgery (of the MACs, without a target); for latency as measured, for a drop the
            drop on the images that judge.
        predicted: For latency, the share that the search predicted.
        round_to: The kept channels of a group are a multiple of this, or all channels.
    """

    kind: Literal["macs", "params", "channels", "latency", "max_top1_drop", "max_drop", "none"]
    asked: float
    achieved: float
    predicted: float | None = None
    round_to: int

    @property
    def is_drop(self) -> bool:
        """Whether the target limits the drop of the metric, not a cost."""
        return self.kind in ("max_top1_drop", "max_drop")


class Point(Value):
    """One of several networks to which one dense network was pruned.

    Attributes:
        name: The name of its run folder.
        macs: The share of the dense network's multiply-accumulates that is left.
        params: The share of its parameters that is left.
        p50_ms: The median latency in milliseconds.
        speedup: Dense over pruned median latency.
        top1: The count on the test images; None unless each image has one class.
        top1_drop: Dense minus pruned top-1 on the test images.
        score: The recipe's metric on the test images, if it is not top-1.
        score_drop: Dense minus pruned score on the test images.
        judged_drop: The drop of the metric on the images that judge the trials of a target in accuracy; None in a sweep.
        front: Whether no other point is better in both time and accuracy.
        chosen: Whether it is the result of the trials.
        passed: Whether it passed the gate; None where it was not checked.
        distrusted: The reason not to trust its time; None where there is none.
    """

    name: str
    macs: float
    params: float
    p50_ms: float
    speedup: float
    top1: Count | None = None
    top1_drop: float | None = None
    judged_drop: float | None = None
    front: bool = False
    chosen: bool = False
    passed: bool | None = None
    distrusted: str | None = None
    score: Count | Score | None = None
    score_drop: float | None = None

    @property
    def headline(self) -> Count | Score | None:
        """The recipe's metric on the test images."""
        return self.score or self.top1

    @property
    def drop(self) -> float:
        """Dense minus pruned metric on the test images."""
        found = self.top1_drop if self.score_drop is None else self.score_drop
        return math.nan if found is None else found

    def with_trial(self, judged_drop: float, *, chosen: bool, distrusted: str | None) -> Self:
        """Return the point with what it is among the trials for a drop of accuracy."""
        return self.model_copy(update={"judged_drop": judged_drop, "chosen": chosen, "distrusted": distrusted})

    def with_gate(self, *, passed: bool, distrusted: str | None) -> Self:
        """Return the point with the gate's answer."""
        return self.model_copy(update={"passed": passed, "distrusted": distrusted})


class SearchSummary(Value):
    """The course of the search; `generations` is 0 for the one-shot controls.

    `tightening` counts the generations before the budget reached the target; None in reports of earlier versions.
    """

    method: str
    epochs: int
    generations: int
    converged: bool
    diversity: float
    seconds: float
    tightening: int | None = None


class Statistics(Value):
    """The batch-norm statistics that fine-tuning ended with, and the loss on held-out images with either."""

    kept: Literal["trained", "recalibrated"]
    trained: float
    recalibrated: float


class Images(Value):
    """The images on which accuracies were measured: data set, number, and digests of their labels and pixels in order.

    The pixels are those after decoding, resizing and cropping, and `preprocessing` says how; both are None in exports by earlier versions.
    """

    dataset: str
    count: int
    labels_sha256: str
    pixels_sha256: str | None = None
    preprocessing: Preprocessing | None = None


FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""The name of a file in the run folder, which cannot point outside it."""


class FileRecord(Value):
    """The digest and the size of a file of the run."""

    sha256: str
    bytes: int


class WeightsSource(Value):
    """Where weights by name came from.

    Attributes:
        name: The name that the user gave, without what may be secret in a URL.
        address: The page or URL of the source, with the revision where it has one.
        license: The licence as the source states it; None where it states none.
        files: Digests of the files, by name.
    """

    name: str
    address: str
    license: str | None
    files: dict[FileName, FileRecord]


class Report(Value):
    """report.json: what was asked, done, proved and measured in one run.

    Attributes:
        checkpoint: The name of the weights, or of the earlier run, from which the run started.
        source: Where the weights came from, for weights by name.
        variants: The ONNX files in other precisions.
        ship: The recommended file.
        tested_on: The images of the accuracies.
        untrained_head: Whether the dense network's classifier was new (model.reset_head), so that its accuracy, and drops from it, say
            nothing.
        points: The trials of a target in accuracy.
        files: Digests of the files that the report describes.
        settings: The part of the recipe on which `prune` depends (`Recipe.pruning_settings`).
        limits: The recipe's limits when the run was last gated or exported.
        classes: The names of the classes in index order.
        metric: The metric by which the networks are compared.
        batch_norm: The statistics after fine-tuning; None for a network without batch norm, or a report of an earlier version.
        chosen: The keys of the recipe that the run chose, with the reasons.
        alarms: Conspicuous warnings about the results, with what to try.
        remarks: One line for each figure that says less than it seems to.
    """

    schema_version: Literal[1] = 1
    recipe: str
    recipe_hash: str
    network: str
    seed: int
    checkpoint: str
    source: WeightsSource | None = None
    dense: ModelResult
    masked: ModelResult
    after_surgery: ModelResult
    pruned: ModelResult
    target: TargetResult
    proof: Proofs
    search: SearchSummary
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    variants: dict[VariantName, Variant] = Field(default_factory=dict)
    ship: Shipping | None = None
    tested_on: Images | None = None
    untrained_head: bool = False
    verdict: Verdict | None = None
    points: tuple[Point, ...] = ()
    files: dict[FileName, FileRecord] = Field(default_factory=dict)
    settings: dict[str, Any] | None = None
    limits: Gate | None = None
    classes: tuple[str, ...] = ()
    metric: MetricInfo = TOP1
    batch_norm: Statistics | None = None
    chosen: dict[str, str] = Field(default_factory=dict)
    alarms: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def speedup(self) -> Interval | None:
        """Dense over pruned p50 latency with its confidence interval; None where it was not measured, or an earlier version did."""
        return self.pruned.latency_ms.speedup if self.pruned.latency_ms else None

    @property
    def top5_without_use(self) -> str:
        """The reason why top-5 says nothing: with five classes or fewer every image counts. "" with more, or for an earlier version."""
        return f"n/a: {len(self.classes)} classes" if 0 < len(self.classes) <= TOP5 else ""

    @property
    def headline_latencies(self) -> tuple[Latency, ...]:
        """The latencies of the dense and the pruned file at the first setting, which gate and headline use; empty before the export."""
        return tuple(model.latency_ms for model in (self.dense, self.pruned) if model.latency_ms)

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """All measured latencies, of all files and at all settings."""
        models = (self.dense, self.pruned, *(variant.measured for variant in self.variants.values()))
        return tuple(latency for model in models for latency in model.latencies)

    def with_recipe(self, name: str, digest: str, settings: dict[str, Any], limits: Gate) -> Self:
        """Return the report of the same network, as found by another recipe."""
        return self.model_copy(update={"recipe": name, "recipe_hash": digest, "settings": settings, "limits": limits})

    def with_trials(self, target: TargetResult, points: tuple[Point, ...], seconds: float) -> Self:
        """Return the report of a network chosen among trials."""
        return self.model_copy(update={"target": target, "points": points, "seconds": seconds})

    def with_test_images(self, images: Images, classes: tuple[str, ...], *, untrained_head: bool) -> Self:
        """Return the report with the images and classes of its accuracies."""
        return self.model_copy(update={"tested_on": images, "classes": classes, "untrained_head": untrained_head})

    def with_onnx(
        self,
        dense: ModelResult,
        pruned: ModelResult,
        variants: Mapping[VariantName, Variant],
        proof: Proofs,
    ) -> Self:
        """Return the report with what was measured of the ONNX files; a verdict on older files goes."""
        return self.model_copy(
            update={"dense": dense, "pruned": pruned, "variants": dict(variants), "proof": proof, "verdict": None}
        )

    def with_files(self, files: Mapping[str, FileRecord]) -> Self:
        """Return the report with further files."""
        return self.model_copy(update={"files": {**self.files, **files}})

    def with_shipping(self, ship: Shipping | None, limits: Gate) -> Self:
        """Return the report with the file to ship by these limits."""
        return self.model_copy(update={"ship": ship, "limits": limits})

    def with_warnings(self, alarms: tuple[str, ...], remarks: tuple[str, ...]) -> Self:
        """Return the report with the warnings about its results."""
        return self.model_copy(update={"alarms": alarms, "remarks": remarks})

    def with_verdict(self, verdict: Verdict) -> Self:
        """Return the report with the gate's verdict."""
        return self.model_copy(update={"verdict": verdict})

    def without_onnx(self) -> Self:
        """Return the report as `prune` wrote it."""
        files = {name: record for name, record in self.files.items() if not name.endswith(".onnx")}
        return self.model_copy(
            update={
                "dense": self.dense.without_onnx(),
                "pruned": self.pruned.without_onnx(),
                "proof": self.proof.without_onnx(),
                "tested_on": None,
                "files": files,
                "variants": {},
                "ship": None,
                "verdict": None,
            }
        )


class Sweep(Value):
    """sweep.json: the points of a sweep, smallest first, and the network from which all of them started."""

    schema_version: Literal[1] = 1
    network: str
    checkpoint: str
    dense: ModelResult
    points: tuple[Point, ...]
    metric: MetricInfo = TOP1
