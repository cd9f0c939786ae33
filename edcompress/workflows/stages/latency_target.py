"""Meet a latency target by measuring: export and time the state that was found, and correct it where the prediction was off."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from edcompress.core.recipe.deployment import Benchmark, Export
from edcompress.core.results.measures import Latency
from edcompress.core.system.monitor import Monitor
from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.latency.benchmark import measure
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.report.gate.noise import noise_warning
from edcompress.workflows.stages.starting_point import StartingPoint

TOLERANCE = 0.03
"""Largest distance of the measured share from the target's, relative to it; the next measurement may differ by the rest to 5 %."""

MOST_TRIALS = 4


@dataclass(frozen=True)
class NetworkTimer:
    """Exports the `output` of networks that take images like `example` [N, C, H, W], and times the files as the recipe says."""

    example: Tensor
    settings: Export
    timing: Benchmark
    monitor: Monitor
    output: str | None = None

    def export(self, network: nn.Module, path: Path) -> Path:
        """Write a network (CPU, eval mode) to `path`, without metadata, and return the path."""
        opset, batch = self.settings.opset, self.settings.batch
        export_onnx(network, self.example, path, opset=opset, metadata={}, batch=batch, output=self.output)
        return path

    def measure(self, files: Mapping[str, Path]) -> dict[str, Latency]:
        """Return the latency of each file, from interleaved calls; warn if other work disturbed them."""
        times = measure(dict(files), self.timing)
        if warning := noise_warning(times.values()):
            self.monitor.warning(warning)
        return times


def match_latency_target(
    start: StartingPoint, network: nn.Module, state: Tensor, timer: NetworkTimer, most_trials: int = MOST_TRIALS
) -> tuple[Tensor, float | None]:
    """Return a state bool[D] near `state` of the searched `network` (CPU) whose time is the target's share, and the measured share.

    Without a latency target: `state` itself, and None. After `most_trials`, or when nothing new is left to try, the nearest counts.
    """
    target = start.feasible.target
    if start.table is None or target is None:
        return state, None
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        files = {"dense": timer.export(start.dense, Path(folder) / "dense.onnx")}
        for _ in range(most_trials):
            smaller = remove_channels(network, state, start.space)
            files["pruned"] = timer.export(smaller, Path(folder) / "pruned.onnx")
            times = timer.measure(files)
            share = times["pruned"].p50 / times["dense"].p50
            predicted = start.feasible.share(start.feasible.widths(state)).item()
            timer.monitor.stage(
                f"latency: {share:.1%} of the dense network's measured, {predicted:.1%} predicted, {target.fraction:.1%} asked for"
            )
            off = share / target.fraction
            trials.append((abs(off - 1), state, share))
            if abs(off - 1) <= TOLERANCE:
                break
            state = _resized(start, network, state, predicted / off)
            if any(torch.equal(state, before) for _, before, _ in trials):
                break  # the nearest of several measurements of one state would be the luckiest
    _, state, share = min(trials, key=lambda trial: trial[0])
    return state, share


def _resized(start: StartingPoint, network: nn.Module, state: Tensor, share: float) -> Tensor:
    """Return a state with the proportions of its groups, predicted to take another share of the time; it drops no kept channel first."""
    feasible = start.feasible
    wish = feasible.widths(state) / feasible.channels
    order = (channel_ranks(start.space, magnitude(start.space, network)) + state) / 2
    budget = min(max(share, feasible.smallest), feasible.largest)
    return feasible.repair(wish.unsqueeze(0), order.unsqueeze(0), budget)[0]
