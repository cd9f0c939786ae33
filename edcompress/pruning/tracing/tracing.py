"""Tracing of a network to its pruning space: as a whole, or in parts where that fails."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from edcompress.core.errors import NetworkError, RecipeError
from edcompress.networks.modes import run_once
from edcompress.pruning.space.layers import CONVS, is_depthwise, layer_width
from edcompress.pruning.space.space import Group, Member, PruningSpace, TracedGroup
from edcompress.pruning.tracing.attention_heads import add_head_groups
from edcompress.pruning.tracing.branches import split_branches
from edcompress.pruning.tracing.coupled_groups import trace_groups
from edcompress.pruning.tracing.grouped_convs import join_blocks, join_norm_groups
from edcompress.pruning.tracing.locks import Locks

_BETWEEN = "lies outside the parts of the network that can be traced"
Inputs = dict[str, tuple[Tensor, ...]]


def trace_space(
    network: nn.Module, example: Tensor, ignore: Sequence[str] = (), only: Sequence[str] = ()
) -> PruningSpace:
    """Return the pruning space of a network.

    A network that cannot be traced as a whole is traced block by block; groups that lie within one block are free.

    Args:
        network: the network to trace.
        example: images [N, C, H, W] of the shape that it takes.
        ignore: globs of layer names; groups that match one are locked.
        only: globs of layer names; if there are any, groups that match none of them are locked.

    Raises:
        NetworkError: nothing of the network can be traced.
        RecipeError: a glob matches no layer.
    """
    _check_globs(network, "ignore", ignore)
    _check_globs(network, "only", only)
    found = add_head_groups(_found(network, example), network)
    locks = Locks(network, found, ignore, only)
    layers = dict(network.named_modules())
    parts = split_branches(join_norm_groups(join_blocks(found, layers), layers), layers)
    groups = [group.model_copy(update={"locked": reason or locks.reason(group)}) for group, reason in parts]
    order = {name: index for index, name in enumerate(layers)}
    return PruningSpace(groups=tuple(sorted(groups, key=lambda group: order[group.name])))


def _found(network: nn.Module, example: Tensor) -> list[TracedGroup]:
    try:
        return trace_groups(network, (example,))
    except NetworkError as error:
        try:
            inputs = _inputs(network, example)
        except Exception:  # a network that does not run at all: tracing has said why
            raise error from None
        parts = list(_within(network, "", inputs))
        if not parts:
            raise
        return [*parts, *_rest(network, parts)]


def _within(module: nn.Module, name: str, inputs: Inputs) -> Iterator[TracedGroup]:
    """Yield the groups that lie inside one of the module's blocks, of blocks as large as can be traced."""
    for child_name, child in module.named_children():
        path = f"{name}.{child_name}" if name else child_name
        try:
            found = trace_groups(child, inputs[path]) if path in inputs else None
        except NetworkError:
            found = None
        if found is None:
            yield from _within(child, path, inputs)
        else:
            inside = (group for group, reason in found if reason is None and _begins_and_ends(group, child))
            yield from ((_renamed(group, path), None) for group in inside)


def _begins_and_ends(group: Group, module: nn.Module) -> bool:
    """Return whether a layer of the module makes the channels (a depthwise convolution only passes them on), and another reads them."""
    makers = (module.get_submodule(m.layer) for m in group.members if m.side == "out")
    made = any(isinstance(maker, (*CONVS, nn.Linear)) and not is_depthwise(maker) for maker in makers)
    return made and any(m.side == "in" for m in group.members)


def _inputs(network: nn.Module, example: Tensor) -> Inputs:
    """Return the tensors that each block of the network takes, by its name, for blocks that run once and take nothing else."""
    names = {module: name for name, module in network.named_modules()}
    calls: dict[str, list[tuple[Tensor, ...] | None]] = {name: [] for name in names.values()}

    def note(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        plain = not kwargs and all(isinstance(arg, Tensor) for arg in args)
        calls[names[module]].append(tuple(arg for arg in args if isinstance(arg, Tensor)) if plain else None)

    run_once(network, example, [module.register_forward_pre_hook(note, with_kwargs=True) for module in names])
    again = {name for name, made in calls.items() if len(made) > 1}
    return {
        name: made[0]
        for name, made in calls.items()
        if len(made) == 1 and made[0] and not any(other.startswith(f"{name}.") for other in again)
    }


def _renamed(group: Group, path: str) -> Group:
    members = (m.model_copy(update={"layer": f"{path}.{m.layer}" if m.layer else path}) for m in group.members)
    return group.model_copy(update={"name": f"{path}.{group.name}" if group.name else path, "members": tuple(members)})


def _rest(network: nn.Module, parts: Sequence[TracedGroup]) -> Iterator[TracedGroup]:
    """Yield a locked group for each convolution and linear layer that is in no part."""
    known = {m.layer for group, _ in parts for m in group.members if m.side == "out"}
    for name, layer in network.named_modules():
        if isinstance(layer, (*CONVS, nn.Linear)) and name not in known:
            every = tuple(range(layer_width(layer, "out")))
            member = Member(layer=name, side="out", positions=every, channels=every)
            yield Group(name=name, channels=len(every), members=(member,)), _BETWEEN


def _check_globs(network: nn.Module, key: str, patterns: Sequence[str]) -> None:
    modules = dict(network.named_modules())
    layers = [name for name, module in modules.items() if layer_width(module, "out") or not any(module.children())]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            block = next((name for name in modules if fnmatchcase(name, pattern)), None)
            held = f", only {block!r}, which holds layers: write '{pattern}.*'" if block else ""
            raise RecipeError(
                f"constraints.{key}: {pattern!r} matches no layer{held}; layers are named like {layers[0]!r}"
            )
