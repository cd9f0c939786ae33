"""Recognise a network by the names and shapes of its tensors: torchvision's, the CIFAR ResNets, and timm's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from torch import Tensor, nn

from edcompress.core.errors import InputError
from edcompress.core.plain_text import few
from edcompress.core.recipe.model import Model
from edcompress.networks.fingerprints import timm_names
from edcompress.networks.load_weights import Comparison, Misfits, compare, differing_axes
from edcompress.networks.outlines import outline
from edcompress.networks.registry import CIFAR_RESNETS, STEMS, TIMM, build, family, torchvision_names

ODD_CLASSES = 1009
"""Classes of a candidate before those of the weights are known: a number that hardly any network has."""

RELATED = 0.1
"""Share of the tensors' names above which the other networks of a family are looked at."""


@dataclass(frozen=True)
class Recognition:
    """The networks that weights fit, best first; without any, the nearest one and what differs."""

    models: tuple[Model, ...]
    nearest: str = ""


def recognise(tensors: Mapping[str, Tensor], *, hint: str = "") -> Recognition:
    """Return the networks whose tensors have these names and shapes.

    torchvision's networks and the CIFAR ResNets come before timm's, which are looked at only where none of those fits.

    Args:
        tensors: By parameter name.
        hint: The file's name: of several networks, those whose names are in it come first, the longest name before others.
    """
    nearest = _Nearest()
    models = list(filter(None, (_fitted(name, tensors, nearest) for name in _plausible(tensors))))
    if not models:
        models = list(filter(None, (_fitted(TIMM + name, tensors, nearest) for name in timm_names(tensors))))
    models.sort(key=lambda model: _rank(model.name.removeprefix(TIMM), hint))
    return Recognition(tuple(models), nearest.text if not models else "")


def _rank(name: str, hint: str) -> tuple[int, int, str]:
    """Return the place of a network among others: those named in the hint first, then short names, which are the plain variants."""
    return -len(name) if name in hint.lower() else 0, len(name), name


def _plausible(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of the CIFAR ResNets and of those families of torchvision whose first member shares names with the tensors."""
    yield from CIFAR_RESNETS
    for _, members in groupby(sorted(torchvision_names(), key=family), key=family):
        first, *others = members
        found = _found(first, tensors)
        if len(found.given) - len(found.unexpected) > RELATED * len(found.given):
            yield from (first, *others)


class _Nearest:
    """Remembers which candidate shares most tensors with the weights."""

    def __init__(self) -> None:
        self.text, self._share = "", 0.5

    def look_at(self, name: str, found: Comparison) -> None:
        shared = len(found.given) - len(found.unexpected) - len(found.misfits)
        share = shared / (len(found.given) + len(found.missing))
        if share > self._share:
            different = [*found.misfits, *found.unexpected, *found.missing]
            self._share = share
            self.text = f"{name} is nearest, with {shared} equal tensors; different: {few(different)}"


def _fitted(name: str, tensors: Mapping[str, Tensor], nearest: _Nearest) -> Model | None:
    """Return the network of this name with the classes, the input channels and the stem of the tensors, if they fit then."""
    try:
        found = _found(name, tensors)
        nearest.look_at(name, found)
        if found.missing or found.unexpected:
            return None
        model = _adapted(name, found.misfits)
        again = compare(_outline_of(model), tensors, source="the weights")
    except (InputError, ValueError):  # it cannot be built like that, or the tensors hold it twice
        return None
    return None if again.missing or again.unexpected or again.misfits else model


def _found(name: str, tensors: Mapping[str, Tensor]) -> Comparison:
    return compare(_outline_of(Model(arch=name, num_classes=ODD_CLASSES)), tensors, source="the weights")


def _outline_of(model: Model) -> nn.Module:
    return outline(partial(build, model))


def _adapted(name: str, misfits: Misfits) -> Model:
    """Return the network of this name with what explains the shapes that differ."""
    values: dict[str, object] = {"arch": name, "num_classes": ODD_CLASSES}
    for theirs, ours in misfits.values():
        axes = differing_axes(theirs, ours) or ()
        if axes == (0,):
            values["num_classes"] = theirs[0]
        if 1 in axes and len(theirs) == 4:
            values["in_channels"] = theirs[1]
        if axes[-2:] == (2, 3) and not name.startswith(TIMM) and name not in CIFAR_RESNETS and family(name) in STEMS:
            values["stem"] = "cifar"
    return Model.model_validate(values)
