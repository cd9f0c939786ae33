"""Load tensors into a network, all or none, with a message that names the key that does not fit and the likely reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edcompress.core.errors import WeightsError
from edcompress.core.plain_text import few
from edcompress.networks.torch_private import COMPILED

MOST_NAMES = 8
AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Training-only heads in torchvision's GoogLeNet and Inception files."""

PREFIX = re.compile(rf"^(module\.)+|{COMPILED}\.")
"""What DataParallel and torch.compile put before the names of a network's tensors, the latter for submodules too."""

OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
"""Names from before PyTorch 0.4, which torchvision's DenseNet files still have."""

_MARKS = {
    "fake_quant": "the weights are of a network that is prepared for quantisation: prune before that, from the weights before it",
    "activation_post_process": "the weights are of a network with observers: prune before preparing it for quantisation",
    "parametrizations.": "the weights are parametrized: call torch.nn.utils.parametrize.remove_parametrizations before saving",
}
"""The likely reason for a tensor that the network lacks, by a part of its name."""

Shape = tuple[int, ...]
Misfits = dict[str, tuple[Shape, Shape]]


class Comparison(NamedTuple):
    """The tensors `given` under a network's names; names that it lacks or that lack a tensor; pairs of shapes, theirs and its own."""

    given: dict[str, Tensor]
    missing: list[str]
    unexpected: list[str]
    misfits: Misfits


def load_into(
    network: nn.Module, tensors: Mapping[str, Tensor], *, source: str, reset_head: bool = False
) -> frozenset[str]:
    """Copy all tensors into a network.

    A prefix that the names share and the network's lack (a Lightning module's `model.`) is dropped, and tensors without it are ignored.
    Counters, tables of indices, masks and a profiler's counts may be missing or superfluous, as the network makes its own.

    Args:
        network: The network to change.
        tensors: By parameter name.
        source: Their file, for messages.
        reset_head: Keep the network's classifier where the tensors have one for a different number of classes.

    Returns:
        The names of the classifier's tensors that were kept.

    Raises:
        WeightsError: The tensors do not fit; the message says which and why.
    """
    state = network.state_dict()  # torch's own dictionary: it carries the version of each layer's layout
    found = compare(network, tensors, source=source)
    kept = _different_head(found.misfits) if reset_head else frozenset()
    misfits = {key: pair for key, pair in found.misfits.items() if key not in kept}
    if found.missing or found.unexpected or misfits:
        matched = len(state.keys() & found.given) - len(kept)
        raise WeightsError(f"{source}: {_explain(found.missing, found.unexpected, misfits, matched)}")
    given = {key: tensor for key, tensor in found.given.items() if key not in kept}
    _require_kinds(given, state, source)
    _require_finite(given, source)
    state.update(given)
    network.load_state_dict(state, strict=True)
    return kept


def compare(network: nn.Module, tensors: Mapping[str, Tensor], *, source: str) -> Comparison:
    """Compare tensors with a network's own, by names and shapes; the network may be on the meta device, without values.

    Args:
        network: The network, which stays as it is.
        tensors: By parameter name.
        source: Their file, for messages.

    Returns:
        The tensors under the network's names, and what does not fit; names that need not fit are left out.

    Raises:
        WeightsError: They hold the network twice.
    """
    state = network.state_dict()
    named = _unprefixed(_renamed(_masks_applied(tensors, state), state), state, source)
    used = {key: tensor for key, tensor in named.items() if not _is_unused_head(network, key)}
    given = {key: tensor for key, tensor in used.items() if key in state or not _is_optional(key, tensor)}
    missing = [key for key in state if key not in given and not _is_optional(key, state[key])]
    unexpected = [key for key in given if key not in state]
    misfits: Misfits = {
        key: (tuple(given[key].shape), tuple(old.shape))
        for key, old in state.items()
        if key in given and given[key].shape != old.shape
    }
    return Comparison(given, missing, unexpected, misfits)


def plain_name(key: str) -> str:
    """Return a parameter's name without the prefixes of wrappers."""
    while (shorter := PREFIX.sub("", key)) != key:
        key = shorter
    return OLD_DENSENET.sub(r"\1\2.", key)


def _masks_applied(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Replace each pair NAME_orig and NAME_mask of torch.nn.utils.prune by NAME, unless the network has such pairs itself."""
    if any(key.endswith("_orig") for key in state):
        return tensors
    names = [key.removesuffix("_orig") for key in tensors if key.endswith("_orig")]
    masked = {
        name: tensors[f"{name}_orig"] * mask
        for name in names
        if (mask := tensors.get(f"{name}_mask")) is not None and mask.shape == tensors[f"{name}_orig"].shape
    }
    halves = {f"{name}_{half}" for name in masked for half in ("orig", "mask")}
    return {key: tensor for key, tensor in tensors.items() if key not in halves} | masked


def _renamed(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Rename tensors to the network's own names, which may contain what `plain_name` removes, such as a block called `module`."""
    own = {plain_name(key): key for key in state}
    return {key if key in state else own.get(key, key): tensor for key, tensor in tensors.items()}


def _unprefixed(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> Mapping[str, Tensor]:
    """Return the tensors under the prefix without which most names are the network's; all tensors where some name is one already.

    Raises:
        WeightsError: Two prefixes fit equally, as for a teacher and a student, and their tensors differ.
    """
    if tensors.keys() & state.keys():
        return tensors
    cuts = ((key[:end], key[end:]) for key in tensors for end in (i + 1 for i, c in enumerate(key) if c == "."))
    prefixes = Counter(prefix for prefix, name in cuts if name in state)
    if not prefixes:
        return tensors
    most = max(prefixes.values())
    first, *others = (prefix for prefix, names in prefixes.items() if names == most)
    found = _under(first, tensors)
    for other in others if most > len(state) / 2 else []:
        if not _same(found, _under(other, tensors)):
            raise WeightsError(
                f"{source} holds weights for the network twice, under {first} and under {other}; save only the weights to use"
            )
    return found


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def _different_head(misfits: Misfits) -> frozenset[str]:
    """Return the tensors whose shapes differ only in the number of classes; empty where others differ too."""
    return frozenset(misfits) if _of_other_classes(misfits.values()) else frozenset()


def _of_other_classes(pairs: Collection[tuple[Shape, Shape]]) -> bool:
    """Return whether shapes differ only in the first axis, and all by the same two numbers, as those of classifiers do."""
    return all(differing_axes(*pair) == (0,) for pair in pairs) and len({(a[0], b[0]) for a, b in pairs}) == 1


def _is_unused_head(network: nn.Module, key: str) -> bool:
    return key.startswith(AUXILIARY) and getattr(network, "aux_logits", True) is False


def _is_optional(key: str, tensor: Tensor) -> bool:
    """Return whether a tensor is not a weight: integers and booleans, and the counts that thop leaves in a network."""
    return not tensor.is_floating_point() or key.rpartition(".")[2] in ("total_ops", "total_params")


def _require_kinds(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], source: str) -> None:
    for key, tensor in tensors.items():
        if state[key].is_floating_point() and not tensor.is_floating_point():
            raise WeightsError(
                f"{source}: {key} holds {tensor.dtype} values, the network's are {state[key].dtype}; "
                "save the weights before any quantising"
            )


def _require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            raise WeightsError(f"{source}: {key} holds {bad} NaN or infinite values of {tensor.numel()}")


def _explain(missing: list[str], unexpected: list[str], misfits: Misfits, shared: int) -> str:
    if not missing and not unexpected and (reason := _known_cause(misfits)):
        return reason
    fits = shared - len(misfits)
    total = shared + len(missing) + len(unexpected)
    parts = ["the weights do not fit the recipe's network"]
    if fits < total / 2:
        parts.append(
            f"only {fits} of {total} tensors match, so this is probably a different architecture: see model.arch"
        )
    if missing:
        parts.append(f"missing {_listed(missing)}")
    if unexpected:
        parts.append(f"unexpected {_listed(unexpected)}")
        parts += [reason for mark, reason in _MARKS.items() if any(mark in key for key in unexpected)]
    if misfits:
        parts.append(f"different shapes {_listed(f'{key} {_pair(pair)}' for key, pair in misfits.items())}")
    return "; ".join(parts)


def _known_cause(misfits: Misfits) -> str | None:
    """Return the recipe's key that explains shapes which differ in a single layer, or in classifiers; None where none does."""
    key, (theirs, ours) = next(iter(misfits.items()))
    if _of_other_classes(misfits.values()):
        return (
            f"the weights have {theirs[0]} classes, the recipe's model.num_classes is {ours[0]} ({key}); "
            "model.reset_head: true starts with a new classifier"
        )
    layers = {key.rpartition(".")[0] for key in misfits}
    differ = {differing_axes(*pair) for pair in misfits.values()}
    if len(layers) != 1 or len(differ) != 1:
        return None
    match differ.pop(), len(ours):
        case (1,), 4:
            return f"the weights take {theirs[1]} input channels, the recipe's model.in_channels is {ours[1]} ({key})"
        case (2, 3), 4:
            return f"{key} of the weights is {theirs[2]}x{theirs[3]}, the network's {ours[2]}x{ours[3]}: see model.stem"
    return None


def differing_axes(theirs: Shape, ours: Shape) -> Shape | None:
    """Return the axes in which two shapes of as many axes differ; None where they have different numbers of axes."""
    if len(theirs) != len(ours):
        return None
    return tuple(axis for axis, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)


def _pair(shapes: tuple[Shape, Shape]) -> str:
    return f"{list(shapes[0])} instead of {list(shapes[1])}"


def _listed(names: Iterable[str]) -> str:
    return few(list(names), MOST_NAMES)
