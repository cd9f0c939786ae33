"""Verb: what of a network can be pruned, in figures, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import overload

from torch import Tensor, nn

from edcompress.core.errors import BudgetError, InputError
from edcompress.core.recipe.deployment import Benchmark, Export
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.recipe.target import Constraints, Target
from edcompress.core.results.inspection import GroupSummary, Inspection, LayerShare
from edcompress.core.results.measures import Size
from edcompress.core.system.context import DEFAULT, RunOptions
from edcompress.core.system.machine import WaitTimer
from edcompress.deploy.export.onnx_export import to_onnx
from edcompress.deploy.latency.layer_profile import measure_layer_shares
from edcompress.networks.build import example_images, plain_network
from edcompress.networks.modes import on_cpu
from edcompress.networks.user_factory import OBJECT
from edcompress.pruning.cost.budget import FeasibleStates
from edcompress.pruning.cost.cost_model import CostModel
from edcompress.pruning.cost.multiplications import uncounted_warnings
from edcompress.pruning.cost.network_size import layer_sizes, measure_size, outputs_per_image
from edcompress.pruning.space.space import Group, PruningSpace
from edcompress.report.gate.noise import wait_warning
from edcompress.workflows.evaluate import network_of
from edcompress.workflows.in_memory import model_section
from edcompress.workflows.stages.feasibility import costs_and_target
from edcompress.workflows.stages.starting_point import space_of, time_dense
from edcompress.workflows.weights import Weights, open_weights

LITTLE_WORK = 100
"""Multiply-accumulates per value written, below which time follows the values: MobileNetV2 has 45, ResNet-18 720 (docs/latency.md)."""


@overload
def inspect(
    model: Weights | None, recipe: Recipe, options: RunOptions = DEFAULT, *, onnx_latency: bool = False
) -> Inspection: ...


@overload
def inspect(
    model: nn.Module,
    *,
    input_size: int | tuple[int, ...],
    output: str | int | None = None,
    target: Mapping[str, object] | None = None,
    onnx_latency: bool = False,
) -> Inspection: ...


def inspect(
    model: Weights | nn.Module | None,
    recipe: Recipe | None = None,
    options: RunOptions = DEFAULT,
    *,
    onnx_latency: bool = False,
    input_size: int | tuple[int, ...] | None = None,
    output: str | int | None = None,
    target: Mapping[str, object] | None = None,
) -> Inspection:
    """Find what of a network can be pruned, and what is locked and why; nothing is trained and no data is read.

    With a recipe: `inspect("model.pt", read_recipe("my.yaml"))`; with a network in memory: `inspect(model, input_size=(3, 32, 32))`.

    Args:
        model: A weights file, a run folder or the name of weights; None: the recipe's network with random weights; or a network in memory,
            which stays as it is.
        recipe: The network, the constraints and the target, for a file.
        options: Trust and monitor.
        onnx_latency: Export the network too, and measure each layer's share of the time in onnxruntime.
        input_size: Of a network in memory, (channels, height, width) of its images; (height, width) or a number for RGB.
        output: Of a network in memory with several outputs, the one that counts.
        target: Of a network in memory, the target section of a recipe.

    Returns:
        The groups, what they cost, and how far the constraints let a target go.

    Raises:
        InputError: The model or the recipe cannot be used.
    """
    if isinstance(model, nn.Module):
        recipe, options = _recipe_of_object(model, input_size, output, target)
    if recipe is None:
        raise TypeError("inspect takes a recipe with a file, or a torch.nn.Module with input_size=...")
    if model is None or isinstance(model, nn.Module):
        network = plain_network(recipe.network_spec, trust=options.trust)
    else:
        given = open_weights(model, options.monitor)
        recipe = given.completed(recipe.explicit) if given.offer.values else recipe
        network = network_of(given.path, recipe, options)
    return inspect_network(network, recipe, onnx_latency=onnx_latency)


def _recipe_of_object(
    model: nn.Module,
    input_size: int | tuple[int, ...] | None,
    output: str | int | None,
    target: Mapping[str, object] | None,
) -> tuple[Recipe, RunOptions]:
    """Return a recipe for a network in memory, and options that find it."""
    if input_size is None:
        raise TypeError("inspect: give the size of the network's images, such as input_size=(3, 32, 32)")
    sizes = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    sizes = (3, *sizes) if len(sizes) == 2 else sizes
    if len(sizes) != 3:
        raise InputError(f"inspect: input_size is (channels, height, width) (got {input_size!r})")
    section = model_section(model, sizes, output)
    data = {"dataset": "memory", "image_size": list(sizes[1:])}
    recipe = check({"name": "inspect", "model": section, "data": data, "target": target}, "edcompress.inspect")
    return recipe, RunOptions(objects={OBJECT: model})


def inspect_network(network: nn.Module, recipe: Recipe, *, onnx_latency: bool = False) -> Inspection:
    """Return what `inspect` does, of the recipe's network."""
    example, constraints = example_images(recipe.network_spec.image_shape), recipe.constraints
    space = space_of(recipe, network)
    size, layers = measure_size(network, example), layer_sizes(network, example)
    costs, target = costs_and_target(network, example, space, recipe.search_target, time_dense(recipe, network))
    warnings = [*uncounted_warnings(network, example), *_little_work(network, example, size)]
    feasible: FeasibleStates | None = None
    try:
        feasible = FeasibleStates(space, costs, target, constraints)
        warnings += feasible.warnings
    except BudgetError as error:
        warnings.append(str(error))
    watch = WaitTimer()
    shares = layer_shares(network, example, recipe.export, recipe.timing, recipe.model.output) if onnx_latency else {}
    warnings += disturbed_warning(watch) if onnx_latency else []
    return Inspection(
        network=recipe.model.name,
        size=size,
        groups=tuple(_summary(group, layers, size) for group in space.groups),
        smallest={kind: _smallest(space, costs, constraints, kind) for kind in ("macs", "params")},
        round_to=feasible.round_to if feasible else constraints.round_to,
        warnings=tuple(warnings),
        layers=tuple(_with_macs(shares, layers, size)),
    )


def disturbed_warning(watch: WaitTimer) -> list[str]:
    """Return the warning about times of layers that were measured beside other work."""
    warning = wait_warning(watch.waited() or 0.0, "the layers' shares of the time are not to be trusted")
    return [warning] if warning else []


def layer_shares(
    network: nn.Module, example: Tensor, export: Export, timing: Benchmark, output: str | None = None
) -> dict[str, float]:
    """Return the share of the network's time in onnxruntime that each layer takes, by name, measured now."""
    frozen = on_cpu(network)
    model = to_onnx(frozen, example, export.opset, export.batch, output)
    return measure_layer_shares(frozen, model, example, timing)


def _with_macs(shares: dict[str, float], layers: dict[str, Size], size: Size) -> Iterator[LayerShare]:
    for name, time in shares.items():
        yield LayerShare(name=name, time=time, macs=layers[name].macs / size.macs if name in layers else 0.0)


def _smallest(space: PruningSpace, costs: CostModel, constraints: Constraints, kind: str) -> float:
    """Return the least share of the network's `kind` that the constraints leave; all of it if nothing is free.

    Rounding that is left to us gives way to the target: then channels go one by one.
    """
    if not space.free:
        return 1.0
    finest = constraints.with_round_to(constraints.round_to or 1)
    return FeasibleStates(space, costs, Target.model_validate({kind: 1.0}), finest).smallest


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
    """Return the warning about a network whose time follows the values it writes."""
    work = size.macs / outputs_per_image(network, example)
    if work >= LITTLE_WORK:
        return []
    return [
        f"{work:.0f} multiply-accumulates per value written: this network is memory-bound, and the speed-up will be less than the "
        "share of multiply-accumulates saved"
    ]
