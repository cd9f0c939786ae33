"""Removals are tried, to lock the groups whose removal differs from their mask, which tracing misses.

Autograd sees no image, no buffer, no index, and no meaning in a view; a network that adds its own input to the output of a convolution
gives a graph in which that convolution looks free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Generator, Tensor, nn

from edcompress.core.errors import NetworkError, ProofError, first_line
from edcompress.core.results.measures import Proof
from edcompress.networks.equality import compare_logits, require_equal
from edcompress.networks.random_weights import with_random_weights
from edcompress.pruning.space.space import Group, PruningSpace
from edcompress.pruning.surgery.masks import masked_forward
from edcompress.pruning.surgery.remove import remove_channels
from edcompress.pruning.tracing.removal_checks import Check, Mode, RunsAt, SameFunction, SameLogits

_NO_BATCHES: Mapping[Mode, int] = {}


def lock_inexact(
    network: nn.Module,
    space: PruningSpace,
    example: Tensor,
    images: Tensor | None = None,
    batches: Mapping[Mode, int] = _NO_BATCHES,
) -> PruningSpace:
    """Return the space with every free group locked whose channels cannot be removed exactly.

    Tried are the network as it is, on the example and the images; a copy with random weights, in eval and in train mode; and the network
    at its batch sizes.

    Args:
        network: the network of the space, in eval mode.
        space: the space as it was traced.
        example: images [N, C, H, W] of the shape that the network takes.
        images: two or more real images [N, C, H, W]; default: the example.
        batches: the batch size of each mode to try.

    Raises:
        ProofError: the weights give NaN.
        NetworkError: the whole network fails at these batch sizes.
    """
    if not space.free:
        return space
    trials = list(_trials(network, example, example if images is None else images, batches))

    def fault(groups: Sequence[Group]) -> str | None:
        """Return why the groups cannot be removed together, or None."""
        names, generator = {group.name for group in groups}, Generator().manual_seed(0)
        tried = ((trial, _probe(space, names, trial.share, generator)) for trial in trials)
        return next((found for trial, state in tried if (found := _fault_in(trial, space, state))), None)

    reasons = _faults(space.free, fault)
    groups = (g.model_copy(update={"locked": g.locked or reasons.get(g.name)}) for g in space.groups)
    return PruningSpace(groups=tuple(groups))


@dataclass(frozen=True)
class _Trial:
    """A network to remove channels from, and checks of the result: about a `share` of each group's channels stays, at least one."""

    network: nn.Module
    share: float
    checks: Sequence[Check]


def _trials(network: nn.Module, example: Tensor, seen: Tensor, batches: Mapping[Mode, int]) -> Iterator[_Trial]:
    """Yield trials of the network on the images `seen` [N, C, H, W] and on the example, with random weights, and without values."""
    yield _Trial(network, 0.5, [SameLogits(network, seen)])
    yield _Trial(network, 0.0, [SameLogits(network, example)])
    other = with_random_weights(network, seen[-2:])
    yield _Trial(other, 0.5, [SameFunction(other, seen[-1:], "eval"), SameFunction(other, seen[-2:], "train")])
    shape = tuple(example.shape[1:])
    yield _Trial(network, 0.5, [RunsAt(network, shape, mode, size) for mode, size in batches.items()])


@torch.no_grad()
def prove_masked(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> tuple[nn.Module, Proof]:
    """Return the network without what the state bool[D] drops, and the proof on images [N, C, H, W] that it equals the masked one.

    Both run in eval mode.

    Raises:
        ProofError: they differ; the message names the groups whose removal differs from their mask.
    """
    smaller = remove_channels(network, state, space).eval()
    masked = masked_forward(network.eval(), space, state, images)
    proof = compare_logits(masked, smaller(images), f"masked and pruned network on {len(images)} images")
    try:
        return smaller, require_equal(proof)
    except ProofError as error:
        names = find_inexact_groups(network, space, state, images)
        if not names:
            raise
        raise ProofError(
            f"{error}; the groups whose channels are not removed exactly: {', '.join(names)}. Lock them with "
            f"constraints.ignore=[{','.join(names)}], in addition to what it holds already, and start over"
        ) from error


def find_inexact_groups(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> tuple[str, ...]:
    """Return the names of the groups whose channels that the state bool[D] drops are not removed exactly, on images [N, C, H, W]."""
    trial = _Trial(network, 0.0, [SameLogits(network, images)])
    cut = [group for group, part in space.slices() if not state[part].all()]

    def fault(groups: Sequence[Group]) -> str | None:
        partial, names = space.full_state(), {group.name for group in groups}
        for group, part in space.slices():
            if group.name in names:
                partial[part] = state[part]
        return _fault_in(trial, space, partial)

    return tuple(_faults(cut, fault))


def _faults(groups: Sequence[Group], fault: Callable[[Sequence[Group]], str | None]) -> dict[str, str]:
    """Return what is wrong with groups, by name.

    All are tried at once, which is enough for most networks; where that fails they are tried half by half, each part together with
    those that were found exact before it.
    """
    exact: list[Group] = []
    reasons: dict[str, str] = {}

    def sort_out(groups: Sequence[Group]) -> None:
        found = fault([*exact, *groups])
        if found is None:
            exact.extend(groups)
        elif len(groups) == 1:
            reasons[groups[0].name] = found
        else:
            sort_out(groups[: len(groups) // 2])
            sort_out(groups[len(groups) // 2 :])

    if groups:
        sort_out(groups)
    return reasons


def _probe(space: PruningSpace, names: set[str], share: float, generator: Generator) -> Tensor:
    """Return a state bool[D] that keeps about `share` of the channels of the named groups, at least one, and all others.

    The last channel stays and the first is dropped: code that reads only the first channels would not miss any other.
    """
    state = space.full_state()
    for group, part in space.slices():
        if group.name in names:
            ranks = torch.rand(group.channels, generator=generator)
            ranks[0], ranks[-1] = 1, -1
            state[part][ranks.argsort()[max(1, int(share * group.channels)) :]] = False
    return state


def _fault_in(trial: _Trial, space: PruningSpace, state: Tensor) -> str | None:
    """Return what is wrong with the network without the channels that `state` drops, or None."""
    where, running = "", [""]
    try:
        smaller = remove_channels(trial.network, state, space)
        running = _watch_layers(smaller)
        for check in trial.checks:
            where = check.where
            if not check.holds(space, state, smaller):
                return f"removing its channels changes the result{where} (the tracing misses a dependency)"
    except (ProofError, NetworkError):
        raise
    except Exception as error:  # of any kind: the network's code cannot run with fewer channels
        place = _describe(running[-1], trial.network.get_submodule(running[-1]))
        return f"its channels cannot be removed{where} ({type(error).__name__}: {first_line(error)}, raised in {place})"
    return None


def _describe(name: str, layer: nn.Module) -> str:
    """Return the name of a layer with its own tensors, one of which is often what does not fit fewer channels."""
    own = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
    held = ", ".join(f"{tensor_name} {list(tensor.shape)}" for tensor_name, tensor in own if tensor.numel() > 1)
    return (name or "the network's own code") + (f", which holds {held}" if held else "")


def _watch_layers(network: nn.Module) -> list[str]:
    """Return a list that holds, as the network runs, "" and the names of the running layers, the innermost last; failed ones stay."""
    names = [""]
    for name, layer in network.named_modules():
        layer.register_forward_pre_hook(lambda *_, name=name: names.append(name))
        layer.register_forward_hook(lambda *_: names.__delitem__(-1))
    return names
