"""Recipe sections: export, benchmark and gate."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from edcompress.core.frozen import Fraction, Section, Unit


def _in_opset_range(opset: int) -> int:
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ValueError(f"opset {opset} is not supported; choose {MIN_OPSET} to {MAX_OPSET}")
    return opset


MIN_OPSET, MAX_OPSET = 18, 23
Opset = Annotated[int, AfterValidator(_in_opset_range)]


def _as_batch(batch: object) -> int | str:
    text = str(batch)
    if text == "dynamic":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= MAX_BATCH:
        raise ValueError(f"give dynamic, or a number from 1 to {MAX_BATCH}")
    return int(text)


MAX_BATCH = 4096
Batch = Annotated[int | Literal["dynamic"], BeforeValidator(_as_batch)]
"""Images per call of an ONNX file."""


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _each_once(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(numbers)) < len(numbers):
        raise ValueError("duplicate value; list each once")
    return numbers


def _one_or_list(numbers: tuple[int, ...]) -> int | list[int]:
    return numbers[0] if len(numbers) == 1 else list(numbers)


Counts = Annotated[
    tuple[Annotated[int, Field(ge=1)], ...],
    Field(min_length=1),
    BeforeValidator(_as_list),
    AfterValidator(_each_once),
    PlainSerializer(_one_or_list),
]
"""One number or a list of numbers, written as it is read."""

MOST_ONNX_BYTES = (1 << 31) - 1
"""Bytes that a protobuf, and so an ONNX file without others beside it, can hold."""


class Export(Section):
    """Which ONNX files are written, and how."""

    opset: Opset = Field(20, description=f"ONNX opset, {MIN_OPSET} to {MAX_OPSET}")
    batch: Batch = Field("dynamic", description="images per call: dynamic, or a number that the files then insist on")
    fp16: bool = Field(False, description="pruned.fp16.onnx too: half the size, computed in half precision")
    int8: bool = Field(False, description="pruned.int8.onnx too: quantised, calibrated on the search split")
    with_preprocessing: bool = Field(
        False, description="pruned.pixels.onnx too: takes uint8 pixels, and normalises them itself"
    )


class Setting(NamedTuple):
    """A batch size (images per call) and a number of threads at which latency is measured."""

    batch_size: int
    threads: int


class Benchmark(Section):
    """How the latency of ONNX files is measured."""

    batch_size: Counts = Field((1,), description="images per call, or a list; gate, target and headline use the first")
    threads: Counts = Field(
        (1,), description="intra-op threads, each pinned to a core, or a list; each is measured with each batch size"
    )
    runs: int | None = Field(
        None, ge=20, description="measured calls per model; null: 200 at least, and 3 seconds per model in all at least"
    )
    provider: Literal["CPUExecutionProvider", "CUDAExecutionProvider"] = Field("CPUExecutionProvider", description="")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every pair of a batch size and a number of threads."""
        return tuple(Setting(size, threads) for size in self.batch_size for threads in self.threads)

    @property
    def first(self) -> Setting:
        """The pair that gate, target and headline use."""
        return self.settings[0]


SPEEDUP_LEVEL = 0.95
"""Confidence level at which the interval of a speed-up is measured."""


class Gate(Section):
    """The limits that `edcompress gate` holds a run to; null switches a limit off."""

    min_top1: Unit | None = Field(None, description="top-1 of pruned.onnx, whatever the dense network's is")
    max_top1_drop: Unit | None = Field(0.01, description="dense minus pruned top-1, absolute")
    max_top5_drop: Unit | None = Field(None, description="dense minus pruned top-5, absolute")
    max_class_drop: Unit | None = Field(
        None,
        description="dense minus pruned recall of the class that loses most, absolute; one image of a class of 20 is 0.05",
    )
    min_agreement: Unit | None = Field(
        None, description="share of the test images to which both ONNX files give the same class"
    )
    min_speedup: float | None = Field(1.0, gt=0.0, description="dense over pruned p50 latency")
    max_latency_ms: float | None = Field(None, gt=0.0, description="p50 latency of pruned.onnx, in milliseconds")
    max_size_ratio: Fraction | None = Field(None, description="pruned over dense bytes of the ONNX files")
    max_size_bytes: int | None = Field(None, gt=0, description="bytes of pruned.onnx")
    max_parity: float | None = Field(
        1e-4, gt=0.0, description="largest logit difference of ONNX and PyTorch, relative to their scale"
    )
    confidence: Literal["estimate", "bound"] = Field(
        "estimate",
        description="of the drops and the speed-up, what a limit is held against: the estimate, or the bad end of its interval",
    )
    level: float = Field(0.95, ge=0.5, lt=1.0, description="confidence level of the intervals")
    disturbed: Literal["bound", "fail", "allow"] = Field(
        "bound",
        description="where latencies waited for their cores for over 5 % of the time: the worst that the speed-up may be is held, such"
        " limits fail, or they are held as if nothing had waited",
    )
    allow_weak_dense: bool = Field(
        False,
        description="pass also where the dense network (with model.reset_head the pruned one) is not surely above chance",
    )
    allow_unheld: bool = Field(
        False, description="pass also where every limit had to be skipped, so that nothing was held"
    )
    max_top1_regression: Unit | None = Field(0.01, description="gate --baseline: its pruned top-1 minus this one's")
    max_latency_regression: float | None = Field(
        0.1, ge=0.0, description="gate --baseline: by what share pruned.onnx may be slower than its"
    )
    max_size_regression: float | None = Field(
        0.05, ge=0.0, description="gate --baseline: by what share pruned.onnx may be larger than its"
    )
