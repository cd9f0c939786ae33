"""A target in time is met by what was measured: the found state is exported and timed, and corrected where the prediction was off."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from edcompress.deploy.export.onnx_export import export_onnx
from edcompress.deploy.latency.benchmark import measure
from edcompress.pruning.search.importance import channel_ranks, magnitude
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.report.gate.noise import noise_warning
from edcompress.workflows.stages.job import RunContext
from edcompress.workflows.stages.starting_point import StartingPoint

TOLERANCE = 0.03
"""How far the measured share may be from the target's, relative to it; the rest to 5 % is for what the next measurement differs by."""

MOST_TRIALS = 4


def match_latency_target(
    job: RunContext, origin: StartingPoint, network: nn.Module, state: Tensor
) -> tuple[Tensor, float | None]:
    """A state bool[D] near `state` of the searched `network` (CPU) that takes the target's share of the dense network's time.

    And the share that was measured; None, and the state itself, where the target is no latency. After MOST_TRIALS, or where
    nothing new is left to try, the nearest counts; a plan that was given stays as it is.
    """
    target = origin.budget.target
    if origin.table is None or target is None:
        return state, None
    trials = []
    with tempfile.TemporaryDirectory() as folder:
        dense = exported(job, origin.dense, Path(folder) / "dense.onnx")
        for _ in range(1 if job.recipe.search.takes_plan else MOST_TRIALS):
            smaller = remove_channels(network, state, origin.space)
            share = _share(job, dense, exported(job, smaller, Path(folder) / "pruned.onnx"))
            predicted = origin.budget.share(origin.budget.widths(state)).item()
            job.monitor.stage(
                f"latency: {share:.1%} of the dense network's measured, {predicted:.1%} predicted, {target.fraction:.1%} asked for"
            )
            off = share / target.fraction
            trials.append((abs(off - 1), state, share))
            if abs(off - 1) <= TOLERANCE:
                break
            state = _resized(origin, network, state, predicted / off)
            if any(torch.equal(state, before) for _, before, _ in trials):
                break  # timed again, the nearest would be the luckiest of its times
    _, state, share = min(trials, key=lambda trial: trial[0])
    return state, share


def exported(job: RunContext, network: nn.Module, path: Path) -> Path:
    """`path`, written: the network (CPU, eval mode) as the recipe has it exported, without metadata, to be timed."""
    options = job.recipe.export
    export_onnx(network, job.example, path, opset=options.opset, metadata={}, batch=options.batch)
    return path


def _share(job: RunContext, dense: Path, pruned: Path) -> float:
    times = measure({"dense": dense, "pruned": pruned}, job.recipe.timing)
    if warning := noise_warning(times.values()):
        job.monitor.warning(warning)
    return times["pruned"].p50 / times["dense"].p50


def _resized(origin: StartingPoint, network: nn.Module, state: Tensor, share: float) -> Tensor:
    """The state with its groups' proportions that is predicted to take another share of the time; kept channels are kept first."""
    budget = origin.budget
    wish = budget.widths(state) / budget.channels
    order = (channel_ranks(origin.space, magnitude(origin.space, network)) + state) / 2
    return budget.repair(wish.unsqueeze(0), order.unsqueeze(0), min(max(share, budget.smallest), budget.largest))[0]
