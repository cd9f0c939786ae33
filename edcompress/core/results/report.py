"""What runs come to, and the schema of report.json (`Report`), in the units of `edcompress.measures`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from edcompress.core.frozen import Value
from edcompress.core.recipe.data import Interpolation, Orientation
from edcompress.core.recipe.deployment import Gate
from edcompress.core.results.measures import Count, Interval, Latency, ModelResult, Proof, Proofs
from edcompress.core.results.verdict import Verdict

TOP5 = 5
"""Classes among which every image is right in the top five."""


class Preprocessing(Value):
    """What is done to an image before the network sees it; it travels in the ONNX files and the model card.

    First a file is turned as its EXIF says, where `exif_orientation` is "apply"; it is None in files by earlier versions, which read
    images as stored. `resize` is the short side in pixels before the centre crop to the square of `image_size`; without it the image is
    resized to that square. Then (pixels / 255 - mean) / std, channel by channel, in the order of `channels`.
    """

    channels: Literal["RGB", "L"]
    image_size: int
    resize: int | None
    crop: Literal["center"] | None
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    exif_orientation: Orientation | None = None
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: Literal["NCHW"] = "NCHW"


VariantName = Literal["fp16", "int8"]


class Variant(Value):
    """A file made of pruned.onnx in another precision, measured beside it; `parity` holds it against the PyTorch network in fp32."""

    file: str
    measured: ModelResult
    parity: Proof


class Shipping(Value):
    """The file to ship, None where none is inside the gate's limits, and why."""

    file: str | None
    why: str


class TargetResult(Value):
    """The share of the dense network that was asked for, and the share that is physically left (of its MACs, without a target).

    Of latency it is the share that was measured after surgery, and `predicted` what the search went by. Of max_top1_drop it is the drop
    on the images that judge. The kept channels of a group are a multiple of `round_to`, or all that there were.
    """

    kind: Literal["macs", "params", "channels", "latency", "max_top1_drop", "none"]
    asked: float
    achieved: float
    predicted: float | None = None
    round_to: int


class Point(Value):
    """One of several networks that one dense network was pruned to; its run folder has its name.

    `macs` and `params` are the shares left, `top1_drop` is dense minus pruned on the test images, `judged_drop` on those that judge the
    trials for a drop of accuracy. The `front` has the points that no other beats in both time and accuracy; `passed` is the gate's answer;
    `distrusted` says why its time is not to be trusted.
    """

    name: str
    macs: float
    params: float
    p50_ms: float
    speedup: float
    top1: Count
    top1_drop: float
    judged_drop: float | None = None
    front: bool = False
    chosen: bool = False
    passed: bool | None = None
    distrusted: str | None = None

    def with_trial(self, judged_drop: float, *, chosen: bool, distrusted: str | None) -> Self:
        """Return the point with what it is among the trials for a drop of accuracy."""
        return self.model_copy(update={"judged_drop": judged_drop, "chosen": chosen, "distrusted": distrusted})

    def with_gate(self, *, passed: bool, distrusted: str | None) -> Self:
        """Return the point with the gate's answer."""
        return self.model_copy(update={"passed": passed, "distrusted": distrusted})


class SearchSummary(Value):
    """What the search did; `generations` is 0 for the one-shot controls."""

    method: str
    epochs: int
    generations: int
    converged: bool
    diversity: float
    seconds: float


class Images(Value):
    """On which images accuracies were measured: of what data set, how many, and digests of their labels and pixels in order.

    The pixels are those after decoding, resizing and cropping, and `preprocessing` is how they came to be what the network sees; both
    are None where an earlier version exported.
    """

    dataset: str
    count: int
    labels_sha256: str
    pixels_sha256: str | None = None
    preprocessing: Preprocessing | None = None


FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
"""That of a file of the run folder, which leads nowhere else."""


class FileRecord(Value):
    """The bytes of a file of the run."""

    sha256: str
    bytes: int


def readable(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes that any file can hold: of a folder whose name is no UTF-8, the bytes that are none are written as \\udcNN."""
    return tuple(name.encode(errors="backslashreplace").decode() for name in names)


class Report(Value):
    """report.json: what was asked, done, proved and measured in one run.

    `files` are those that it speaks of, `settings` what of the recipe `prune` depends on (`Recipe.pruning_settings`), `limits` the recipe's
    when it was judged, or exported, last, and `classes` their names in index order.
    With an `untrained_head` (model.reset_head) the dense network's accuracy, and drops from it, say nothing.
    """

    schema_version: Literal[1] = 1
    recipe: str
    recipe_hash: str
    network: str
    seed: int
    checkpoint: str
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

    @property
    def speedup(self) -> Interval | None:
        """Dense over pruned p50 latency with its confidence interval; None where it was not measured, or by an earlier version."""
        return self.pruned.latency_ms.speedup if self.pruned.latency_ms else None

    @property
    def top5_without_use(self) -> str:
        """Why a top-5 says nothing: among five classes or fewer it is every image. "" where it does, or an earlier version ran."""
        return f"n/a: {len(self.classes)} classes" if 0 < len(self.classes) <= TOP5 else ""

    @property
    def headline_latencies(self) -> tuple[Latency, ...]:
        """Those of the dense and of the pruned file at the first setting, which gate and headline go by; empty before the export."""
        return tuple(model.latency_ms for model in (self.dense, self.pruned) if model.latency_ms)

    @property
    def latencies(self) -> tuple[Latency, ...]:
        """All that were measured, of all files and at all settings."""
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
    """sweep.json: the points of a sweep, smallest first, and the network that all of them began with."""

    schema_version: Literal[1] = 1
    network: str
    checkpoint: str
    dense: ModelResult
    points: tuple[Point, ...]
