"""What can be pruned of a network, in figures, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor, nn

from edcompress.core.errors import BudgetError
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.target import Target
from edcompress.core.results.inspection import GroupSummary, Inspection, LayerShare
from edcompress.core.results.measures import Size
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.machine import WaitTimer
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.layer_profile import measure_layer_shares
from edcompress.networks.build import example_images, plain_network
from edcompress.networks.modes import on_cpu
from edcompress.pruning.cost.budget import Budget
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.multiplications import uncounted_warnings
from edcompress.pruning.cost.network_size import layer_sizes, measure_size, outputs_per_image
from edcompress.pruning.space.space import Group, PruningSpace
from edcompress.report.gate.noise import wait_warning
from edcompress.workflows.evaluate import network_of
from edcompress.workflows.stages.feasibility import costs_and_target, find_space, latency_table

LITTLE_WORK = 100
"""Multiply-accumulates per value written, below which time follows the values: MobileNetV2 has 45, ResNet-18 720 (docs/latency.md)."""


def inspect_network(network: nn.Module, recipe: Recipe, *, onnx_latency: bool = False) -> Inspection:
    """The groups of the recipe's network, what they cost, what is locked and why, and how far the constraints let a target go.

    With `onnx_latency` also the share of onnxruntime's time that each layer takes, measured as the recipe's `benchmark` says.
    """
    example, space = example_images(recipe), find_space(recipe, network)
    size, layers = measure_size(network, example), layer_sizes(network, example)
    costs, target = costs_and_target(recipe, network, space, latency_table(recipe, network))
    warnings = [*uncounted_warnings(network, example), *_little_work(network, example, size)]
    budget: Budget | None = None
    try:
        budget = Budget(space, costs, target, recipe.constraints)
        warnings += budget.warnings
    except BudgetError as error:
        warnings.append(str(error))
    watch = WaitTimer()
    timed = tuple(_timed(network, recipe, layers, size)) if onnx_latency else ()
    warnings += distrusted(watch) if onnx_latency else []
    return Inspection(
        network=recipe.model.name,
        size=size,
        groups=tuple(_summary(group, layers, size) for group in space.groups),
        smallest={kind: _smallest(space, costs, recipe, kind) for kind in ("macs", "params")},
        round_to=budget.round_to if budget else recipe.constraints.round_to,
        warnings=tuple(warnings),
        layers=timed,
    )


def distrusted(watch: WaitTimer) -> list[str]:
    """Return the warning about times of layers that were measured beside other work."""
    warning = wait_warning(watch.waited() or 0.0, "the layers' shares of the time are not to be trusted")
    return [warning] if warning else []


def _timed(network: nn.Module, recipe: Recipe, layers: dict[str, Size], size: Size) -> Iterator[LayerShare]:
    frozen, example, options = on_cpu(network), example_images(recipe), recipe.export
    times = measure_layer_shares(frozen, to_onnx(frozen, example, options.opset, options.batch), example, recipe.timing)
    for name, time in times.items():
        yield LayerShare(name=name, time=time, macs=layers[name].macs / size.macs if name in layers else 0.0)


def _smallest(space: PruningSpace, costs: CostModel, recipe: Recipe, kind: str) -> float:
    """The least share of the network's `kind` that the constraints leave; all of it where nothing is free.

    Where rounding is left to us, it gives way to the target: then channels go one by one.
    """
    if not space.free:
        return 1.0
    constraints = recipe.constraints.model_copy(update={"round_to": recipe.constraints.round_to or 1})
    return Budget(space, costs, Target.model_validate({kind: 1.0}), constraints).smallest


def _summary(group: Group, layers: dict[str, Size], size: Size) -> GroupSummary:
    touched = [layers[name] for name in group.layers if name in layers]
    return GroupSummary(
        name=group.name,
        channels=group.channels,
        block=group.block,
        layers=len(group.layers),
        macs=sum(layer.macs for layer in touched) / size.macs,
        params=sum(layer.params for layer in touched) / size.params,
        locked=group.locked,
    )


def _little_work(network: nn.Module, example: Tensor, size: Size) -> list[str]:
    work = size.macs / outputs_per_image(network, example)
    if work >= LITTLE_WORK:
        return []
    return [
        f"{work:.0f} multiply-accumulates per value written: memory sets the pace of this network, and the speed-up will be less than the "
        "share of multiply-accumulates saved"
    ]


def inspect(
    model: Path | None, recipe: Recipe, options: RunOptions = DEFAULT, *, onnx_latency: bool = False
) -> Inspection:
    """What of the network of a checkpoint, a run folder or the recipe alone can be pruned, and what is locked and why.

    Nothing is trained and no data is read.
    With `onnx_latency` the network is exported, and each layer's share of the time in onnxruntime measured.
    """
    network = plain_network(recipe, options) if model is None else network_of(model, recipe, options)
    return inspect_network(network, recipe, onnx_latency=onnx_latency)
