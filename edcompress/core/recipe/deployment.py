"""Recipe sections: export and benchmark."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from edcompress.core.frozen import Section


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
