"""What tracing misses is found by trying: groups whose removal is not what their mask says are locked.

Autograd sees no image, no buffer, no index, and no meaning in a view; a network that adds its own input to a convolution's output
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
    """`space` with every free group locked that cannot be removed exactly, seen on `example` [N, C, H, W].

    What is tried: the network as it is, on the example and on two `images` [N, C, H, W] or more, such as the recipe's; a copy with random
    weights, in eval and in train mode; and its `batches`, for each mode the number of images. Raises ProofError for weights that give NaN,
    NetworkError for a network that fails at those batches as a whole.
    """
    if not space.free:
        return space
    looks = list(_looks(network, example, example if images is None else images, batches))

    def fault(groups: Sequence[Group]) -> str | None:
        """Why they cannot be removed, or None."""
        names, generator = {group.name for group in groups}, Generator().manual_seed(0)
        tried = ((look, _probe(space, names, look.share, generator)) for look in looks)
        return next((found for look, state in tried if (found := _told(look, space, state))), None)

    reasons = _faults(space.free, fault)
    groups = (g.model_copy(update={"locked": g.locked or reasons.get(g.name)}) for g in space.groups)
    return PruningSpace(groups=tuple(groups))


@dataclass(frozen=True)
class _Look:
    """A network without channels, looked at in several ways: about a `share` of each group's stays, and at least one."""

    network: nn.Module
    share: float
    checks: Sequence[Check]


def _looks(network: nn.Module, example: Tensor, seen: Tensor, batches: Mapping[Mode, int]) -> Iterator[_Look]:
    """The network itself on the images `seen` [N, C, H, W] and the example, one with random weights, and tensors without values."""
    yield _Look(network, 0.5, [SameLogits(network, seen)])
    yield _Look(network, 0.0, [SameLogits(network, example)])
    other = with_random_weights(network, seen[-2:])
    yield _Look(other, 0.5, [SameFunction(other, seen[-1:], "eval"), SameFunction(other, seen[-2:], "train")])
    shape = tuple(example.shape[1:])
    yield _Look(network, 0.5, [RunsAt(network, shape, mode, size) for mode, size in batches.items()])


@torch.no_grad()
def prove_masked(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> tuple[nn.Module, Proof]:
    """The network without what the state bool[D] drops, and the proof on images [N, C, H, W] that it equals the masked one, in eval mode.

    Raises ProofError, which names the groups whose removal is not what their mask says.
    """
    smaller = remove_channels(network, state, space).eval()
    masked = masked_forward(network.eval(), space, state, images)
    proof = compare_logits(masked, smaller(images), f"masked and pruned network on {len(images)} images")
    try:
        return smaller, require_equal(proof)
    except ProofError as error:
        names = untrue_groups(network, space, state, images)
        if not names:
            raise
        raise ProofError(
            f"{error}; the groups whose channels are not removed exactly: {', '.join(names)}. Lock them with "
            f"constraints.ignore=[{','.join(names)}], beside what it holds already, and start over"
        ) from error


def untrue_groups(network: nn.Module, space: PruningSpace, state: Tensor, images: Tensor) -> tuple[str, ...]:
    """Names of the groups of which the state bool[D] drops channels that are not removed exactly, seen on images [N, C, H, W]."""
    look = _Look(network, 0.0, [SameLogits(network, images)])
    cut = [group for group, part in space.slices() if not state[part].all()]

    def fault(groups: Sequence[Group]) -> str | None:
        partial, names = space.full_state(), {group.name for group in groups}
        for group, part in space.slices():
            if group.name in names:
                partial[part] = state[part]
        return _told(look, space, partial)

    return tuple(_faults(cut, fault))


def _faults(groups: Sequence[Group], fault: Callable[[Sequence[Group]], str | None]) -> dict[str, str]:
    """What is wrong with groups, by name.

    All are tried at once, which is all there is to do for most networks; where that fails they are tried half by half, each part
    together with those that were found true before it.
    """
    true: list[Group] = []
    reasons: dict[str, str] = {}

    def sort_out(groups: Sequence[Group]) -> None:
        found = fault([*true, *groups])
        if found is None:
            true.extend(groups)
        elif len(groups) == 1:
            reasons[groups[0].name] = found
        else:
            sort_out(groups[: len(groups) // 2])
            sort_out(groups[len(groups) // 2 :])

    if groups:
        sort_out(groups)
    return reasons


def _probe(space: PruningSpace, names: set[str], share: float, generator: Generator) -> Tensor:
    """A state bool[D] that keeps about `share` of the channels of the named groups, at least one, and all others.

    The last channel stays and the first goes: what sums from the first on would not miss those behind it.
    """
    state = space.full_state()
    for group, part in space.slices():
        if group.name in names:
            ranks = torch.rand(group.channels, generator=generator)
            ranks[0], ranks[-1] = 1, -1
            state[part][ranks.argsort()[max(1, int(share * group.channels)) :]] = False
    return state


def _told(look: _Look, space: PruningSpace, state: Tensor) -> str | None:
    """What is wrong with the network without the channels that `state` drops, or None."""
    where, inside = "", [""]
    try:
        smaller = remove_channels(look.network, state, space)
        inside = _inside(smaller)
        for check in look.checks:
            where = check.where
            if not check.holds(space, state, smaller):
                return f"removing its channels changes the result{where} (the tracing misses a dependency)"
    except (ProofError, NetworkError):
        raise
    except Exception as error:  # whatever a foreign network does with fewer channels, it cannot do without them
        place = _described(inside[-1], look.network.get_submodule(inside[-1]))
        return f"its channels cannot be removed{where} ({type(error).__name__}: {first_line(error)}, raised in {place})"
    return None


def _described(name: str, layer: nn.Module) -> str:
    """The layer by its name, with the tensors of its own, among which is often what does not fit fewer channels."""
    own = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
    held = ", ".join(f"{tensor_name} {list(tensor.shape)}" for tensor_name, tensor in own if tensor.numel() > 1)
    return (name or "the network's own code") + (f", which holds {held}" if held else "")


def _inside(network: nn.Module) -> list[str]:
    """The names of the layers that run at the time, the innermost last, after ""; those that fail stay."""
    names = [""]
    for name, layer in network.named_modules():
        layer.register_forward_pre_hook(lambda *_, name=name: names.append(name))
        layer.register_forward_hook(lambda *_: names.__delitem__(-1))
    return names
