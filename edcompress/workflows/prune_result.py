"""The result of pruning objects in memory: the network, its figures, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Self

from torch import nn

from edcompress.core.results.report import Report
from edcompress.core.results.scores import value_of
from edcompress.core.results.verdict import Verdict
from edcompress.core.system.context import RunOptions
from edcompress.pruning.surgery.widths import widths_of
from edcompress.report.render.notebook import LayerWidth, render_notebook
from edcompress.runs.folder import RunFolder
from edcompress.workflows.export import export
from edcompress.workflows.gate import gate, limits_of
from edcompress.workflows.load import load_run
from edcompress.workflows.stages.start_files import read_plan, read_space


@dataclass(frozen=True, eq=False, repr=False)
class PruneResult:
    """A finished run: its folder and report, and the options with the objects that it was made from."""

    folder: RunFolder
    report: Report
    options: RunOptions = field(default_factory=RunOptions)

    @cached_property
    def model(self) -> nn.Module:
        """The pruned network: an ordinary module on the CPU, in eval mode, with trainable parameters."""
        return load_run(self.folder.path, self.options.trust)

    @property
    def metric(self) -> str:
        """The name of the metric that `accuracy` and `drop` are of."""
        return self.report.metric.label

    @property
    def accuracy(self) -> float:
        """The metric of the pruned network on the test images."""
        return value_of(self.report.pruned.headline(self.report.metric))

    @property
    def dense_accuracy(self) -> float:
        """The metric of the network before pruning, on the same images."""
        return value_of(self.report.dense.headline(self.report.metric))

    @property
    def drop(self) -> float:
        """How much of the metric is lost; below 0 where the pruned network is better."""
        return self.dense_accuracy - self.accuracy

    @property
    def macs(self) -> float:
        """The share of the multiply-accumulates that is left."""
        return self.report.pruned.size.macs / self.report.dense.size.macs

    @property
    def params(self) -> float:
        """The share of the parameters that is left."""
        return self.report.pruned.size.params / self.report.dense.size.params

    @property
    def speedup(self) -> float | None:
        """Dense over pruned median latency in onnxruntime; None before `export`."""
        found = self.report.speedup
        return found.estimate if found else None

    @property
    def passed(self) -> bool | None:
        """Whether the gate passed; None before `gate`."""
        return self.report.verdict.passed if self.report.verdict else None

    def refreshed(self) -> Self:
        """Return the result with the report as it is now in the folder, after `gate` or commands of the command line."""
        return replace(self, report=self.folder.read_report())

    def export(
        self,
        *,
        opset: int | None = None,
        batch: int | str | None = None,
        fp16: bool | None = None,
        int8: bool | None = None,
        with_preprocessing: bool | None = None,
    ) -> Self:
        """Write and measure the ONNX files, as `edcompress.export` does.

        Args:
            opset: ONNX opset.
            batch: Images per call, or "dynamic".
            fp16: Write pruned.fp16.onnx too.
            int8: Write pruned.int8.onnx too.
            with_preprocessing: Write pruned.pixels.onnx too, which takes uint8 pixels.

        Returns:
            The result with what was measured of the files.

        Raises:
            EdcompressError: A file cannot be made, or does not equal its network.
        """
        asked = {"opset": opset, "batch": batch, "fp16": fp16, "int8": int8, "with_preprocessing": with_preprocessing}
        return replace(self, report=export(self.folder, options=self.options, **asked))  # type: ignore[arg-type]

    def gate(self, **limits: float | bool | str | None) -> Verdict:
        """Check the run against limits, as `edcompress.gate` does; a limit that fails raises nothing.

        Args:
            limits: Limits by their recipe keys, such as max_drop=0.01 or min_speedup=1.3; the others are those of the run's recipe.

        Returns:
            The verdict, whose `passed` says whether every limit holds.

        Raises:
            InputError: A limit is unknown, or its figure has not been measured: call `export` first.
        """
        by_metric = {"max_top1_drop": None} if "max_drop" in limits else {}
        return gate(self.folder, limits_of(self.folder, {**by_metric, **limits}))

    @cached_property
    def layers(self) -> tuple[LayerWidth, ...]:
        """The layers with weights, and how many of their channels are kept, in the order of the network."""
        space, plan = read_space(self.folder / "space.json"), read_plan(self.folder / "plan.json")
        return tuple(LayerWidth(*width) for width in widths_of(self.model, space, plan))

    def _repr_html_(self) -> str:
        """Return the face of the result in a notebook."""
        return render_notebook(self.report, self.layers, str(self.folder.path))

    def __repr__(self) -> str:
        """Return the main figures in one line."""
        faster = "" if self.speedup is None else f", {self.speedup:.2f}x as fast"
        return (
            f"<PruneResult {self.report.network}: {self.macs:.1%} of the MACs, {self.metric} {self.accuracy:.4f} (dense "
            f"{self.dense_accuracy:.4f}){faster}; {self.folder.path}>"
        )
