"""What tracing misses is found by trying: groups whose removal is not what their mask says are locked.

Autograd sees no image, no buffer, no index, and no meaning in a view; a network that adds its own input to a convolution's output
gives a graph in which that convolution looks free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn

from edcompress.errors import ProofError, first_line
from edcompress.measures import TOLERANCE
from edcompress.networks.modes import evaluating
from edcompress.surgery.masks import masked_call
from edcompress.surgery.plan import plan_of
from edcompress.surgery.remove import compare_logits, remove
from edcompress.surgery.space import Group, Space


def lock_untrue(network: nn.Module, space: Space, example: Tensor) -> Space:
    """`space` with every free group locked that cannot be removed exactly, seen on `example` [N, C, H, W].

    All groups are tried at once, which is all there is to do for most networks; where that fails they are tried half by half, each part
    together with those that were found true before it. Raises ProofError for weights that give NaN.
    """
    true: list[Group] = []
    reasons: dict[str, str] = {}

    def sort_out(groups: Sequence[Group]) -> None:
        fault = _fault(network, space, example, [*true, *groups])
        if fault is None:
            true.extend(groups)
        elif len(groups) == 1:
            reasons[groups[0].name] = fault
        else:
            sort_out(groups[: len(groups) // 2])
            sort_out(groups[len(groups) // 2 :])

    if space.free:
        sort_out(space.free)
    groups = (g.model_copy(update={"locked": g.locked or reasons.get(g.name)}) for g in space.groups)
    return Space(groups=tuple(groups))


def _fault(network: nn.Module, space: Space, example: Tensor, tried: Sequence[Group]) -> str | None:
    """Why the `tried` groups cannot be removed, or None when removing half of each, and all but one channel, equals the mask."""
    generator = Generator().manual_seed(0)
    for share in (0.5, 0.0):
        fault = _difference(network, space, example, _probe(space, {group.name for group in tried}, share, generator))
        if fault is not None:
            return fault
    return None


def _probe(space: Space, names: set[str], share: float, generator: Generator) -> Tensor:
    """A state bool[D] that keeps about `share` of the channels of the named groups, at least one, and all others."""
    state = space.everything()
    for group, part in space.slices():
        if group.name in names:
            order = torch.rand(group.channels, generator=generator).argsort()
            state[part][order[max(1, int(share * group.channels)) :]] = False
    return state


@torch.no_grad()
def _difference(network: nn.Module, space: Space, example: Tensor, state: Tensor) -> str | None:
    """What is wrong with the network without the channels that `state` drops, or None."""
    try:
        smaller = remove(network, plan_of(state, space), space)
        with evaluating(network), evaluating(smaller):
            masked = masked_call(network, space, state, example)
            pruned = smaller(example)
            same = masked.shape == pruned.shape and compare_logits(masked, pruned, "probe").relative <= TOLERANCE
            if not same:  # nor are NaN and a number
                return "removing its channels changes the result (the tracing misses a dependency)"
    except ProofError:
        raise
    except Exception as error:  # whatever a foreign network does with fewer channels, it cannot do without them
        return f"its channels cannot be removed ({type(error).__name__}: {first_line(error)})"
    return None
