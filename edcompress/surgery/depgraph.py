"""The adapter to torch-pruning's dependency graph; no other module imports torch_pruning.

Tracing tells which positions of which layers must go together. What the tracing cannot express truthfully is locked:

- groups that reach the network's outputs;
- partial coverage: torch-pruning sees channels padded in a network's own code as element-wise and couples channel i of 16 with
  channel i of 32, leaving channels 16..31 in no group; a layer with channels in no group locks all groups that touch it (our own
  networks' PaddedShortcut is a layer to it, with inputs and outputs that can go);
- channels that the network's own code cuts into fixed parts (chunk, split, a slice): the parts would not follow the removal;
- norms with statistics over channels, weights of two layers in one, and bare parameters.

What tracing does not see at all (the image, a buffer, an index) is found by `edcompress.surgery.probe`.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edcompress.errors import NetworkError, RecipeError
from edcompress.networks.cifar_resnet import PaddedShortcut
from edcompress.networks.modes import evaluating
from edcompress.surgery.blocks import join_blocks
from edcompress.surgery.layers import ACROSS_CHANNELS, CONVS, PER_CHANNEL, layer_width
from edcompress.surgery.space import Group, Member, Space

Side = tuple[str, str]


class _ShortcutPruner(tp.pruner.BasePruningFunc):  # type: ignore[misc]
    """What torch-pruning must know of a PaddedShortcut: that its inputs and outputs are cut apart from each other, and how many it has."""

    def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only tells what belongs together")

    def prune_in_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
        raise NotImplementedError("torch-pruning only tells what belongs together")

    def get_out_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "out")

    def get_in_channels(self, layer: nn.Module) -> int:
        return layer_width(layer, "in")


PRUNERS = {PaddedShortcut: _ShortcutPruner()}
"""torch-pruning's customized pruners for our networks' own layers."""


def trace_space(network: nn.Module, example: Tensor, ignore: Sequence[str] = ()) -> Space:
    """The pruning space of `network` traced with `example` [N, C, H, W]; groups that match a glob in `ignore` are locked.

    Raises NetworkError where the network cannot be traced, RecipeError for a glob that matches no layer.
    """
    _check_globs(network, ignore)
    graph = _trace(network, example)
    raw = [_read_group(graph, group) for group in graph.get_all_groups()]
    layers = dict(network.named_modules())
    uneven, tied = _half_covered(raw, layers), _tied(network)
    joined = join_blocks(raw, layers)
    groups = [_locked(group, reason or _reason(group, layers, uneven, tied, ignore)) for group, reason in joined]
    order = {name: place for place, name in enumerate(layers)}
    return Space(groups=tuple(sorted(groups, key=lambda group: order[group.name])))


def _trace(network: nn.Module, example: Tensor) -> Any:
    with evaluating(network), differentiable(network), _quiet():
        try:
            return tp.DependencyGraph().build_dependency(
                network, example_inputs=example, customized_pruners=PRUNERS, verbose=False
            )
        except Exception as error:
            raise NetworkError(
                f"{type(network).__name__} cannot be traced with an input of shape {tuple(example.shape)}: "
                f"{type(error).__name__}: {error}"
            ) from error


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Inside, every parameter asks for a gradient; afterwards each has its own flag back."""
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch-pruning warns of bare parameters it will not prune; the space says so itself, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_group(graph: Any, group: Any) -> tuple[Group, str | None]:
    """The group in our words, and a reason to lock it if it holds something without a layer name."""
    names = graph._module2name
    members, reason = [], None
    for item in group:
        module = item.dep.target.module
        if isinstance(module, tp.ops._OutputOp):
            reason = "feeds the network's outputs"
        elif isinstance(module, nn.Parameter):
            reason = reason or f"uses the bare parameter {graph._param_to_name[module]}"
        elif _cuts_channels(module):
            reason = reason or "is split into fixed parts by the network's code"
        elif isinstance(module, nn.Module) and module in names and not _one_for_all(module):
            side = "out" if graph.is_out_channel_pruning_fn(item.dep.handler) else "in"
            members.append(
                Member(layer=names[module], side=side, positions=tuple(item.idxs), channels=tuple(item.root_idxs))
            )
    return Group(name=_first_root(members, names), channels=len(members[0].positions), members=tuple(members)), reason


def _cuts_channels(operation: object) -> bool:
    """Whether a traced operation gives a part of its input's channels."""
    if isinstance(operation, tp.ops._SliceOp):
        return operation.dim not in (0, 2, 3)
    return isinstance(operation, (tp.ops._SplitOp, tp.ops._UnbindOp))


def _one_for_all(layer: nn.Module) -> bool:
    """Whether a layer has the same parameter for every channel, so that none goes with a channel."""
    return isinstance(layer, nn.PReLU) and layer.num_parameters == 1


def _tied(network: nn.Module) -> dict[str, str]:
    """Layers that hold a parameter of another layer, by name, with the name of that layer."""
    holders: dict[nn.Parameter, list[str]] = defaultdict(list)
    for name, layer in network.named_modules():
        for parameter in layer.parameters(recurse=False):
            holders[parameter].append(name)
    return {name: other for names in holders.values() for name in names for other in names if other != name}


def _first_root(members: Sequence[Member], names: Mapping[nn.Module, str]) -> str:
    """The first layer, in the order of the network, that produces exactly the group's channels in their order."""
    roots = {m.layer for m in members if m.side == "out" and m.positions == members[0].positions}
    layers = (name for module, name in names.items() if name in roots and isinstance(module, (*CONVS, nn.Linear)))
    return next(layers, members[0].layer)


def _half_covered(raw: Sequence[tuple[Group, str | None]], layers: Mapping[str, nn.Module]) -> set[Side]:
    """Sides of layers with channels that belong to no group, or to several."""
    claimed: dict[Side, Counter[int]] = defaultdict(Counter)
    for group, _ in raw:
        for member in group.members:
            claimed[member.layer, member.side].update(member.positions)
    return {
        (layer, side)
        for (layer, side), counts in claimed.items()
        if len(counts) != layer_width(layers[layer], side) or max(counts.values()) > 1
    }


def _reason(
    group: Group, layers: Mapping[str, nn.Module], uneven: set[Side], tied: Mapping[str, str], ignore: Sequence[str]
) -> str | None:
    """Why a group must stay as it is, or None."""
    for pattern in ignore:
        for name in group.layers:
            if fnmatchcase(name, pattern):
                return f"constraints.ignore has {pattern!r}, which matches {name}"
    for member in group.members:
        if member.layer in tied:
            return f"{member.layer} has a weight in common with {tied[member.layer]}"
        if reason := _layer_reason(member, layers[member.layer]):
            return f"{member.layer} {reason}"
    for member in group.members:
        if (member.layer, member.side) in uneven:
            return (
                f"couples only a part of the {member.side}put channels of {member.layer} (a padded or sliced shortcut)"
            )
    if not any(member.side == "in" for member in group.members):
        return "feeds the network's outputs"
    return None


def _layer_reason(member: Member, layer: nn.Module) -> str | None:
    if isinstance(layer, ACROSS_CHANNELS):
        return f"is a {type(layer).__name__}, whose result depends on all channels at once"
    if not isinstance(layer, (nn.Linear, PaddedShortcut, *CONVS, *PER_CHANNEL)):
        return f"is a {type(layer).__name__}, a kind of layer that surgery does not cut"
    if len(set(Counter(member.channels).values())) > 1:
        return "holds its channels in unequal parts"
    return None


def _locked(group: Group, reason: str | None) -> Group:
    return group.model_copy(update={"locked": reason})


def _check_globs(network: nn.Module, ignore: Sequence[str]) -> None:
    names = [name for name, _ in network.named_modules()]
    for pattern in ignore:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise RecipeError(f"constraints.ignore: {pattern!r} matches no layer; layers are named like {names[1]!r}")
