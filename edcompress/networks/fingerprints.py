"""Fingerprints of networks: names and shapes of all tensors but the first layer's and the classifier's, which depend on the images.

`timm_fingerprints.json` has those of timm's networks; benchmarks/timm_fingerprints.py writes it.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from torch import Tensor

FILE = "timm_fingerprints.json"


class Family(NamedTuple):
    """Networks with the same names of the layers that read images and of the classifiers, by fingerprint."""

    first: tuple[str, ...]
    classifiers: tuple[str, ...]
    networks: Mapping[str, tuple[str, ...]]


def fingerprint(tensors: Mapping[str, Tensor], first: Collection[str], classifiers: Collection[str]) -> str:
    """Return the fingerprint of a network's tensors.

    Args:
        tensors: By parameter name; integers do not count.
        first: Names of the layers that read images.
        classifiers: Names of the classifiers.
    """
    heads, inputs = tuple(f"{name}." for name in classifiers), {f"{name}.weight" for name in first}
    lines = sorted(
        f"{name} {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if tensor.is_floating_point() and name not in inputs and not name.startswith(heads)
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def timm_names(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the names of timm's networks with these tensors, which may have a common prefix, as a Lightning module's `model.`."""
    for family in _timm_families():
        for prefix in _prefixes(tensors, family):
            own = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            yield from family.networks.get(fingerprint(own, family.first, family.classifiers), ())


def _prefixes(tensors: Mapping[str, Tensor], family: Family) -> list[str]:
    """Return the prefixes under which the tensors have all first layers and classifiers of a family."""
    needed = [f"{name}.weight" for name in (*family.first, *family.classifiers)]
    ends = (key.removesuffix(needed[0]) for key in tensors if key.endswith(needed[0]))
    return [prefix for prefix in ends if prefix[-1:] in ("", ".") and all(prefix + name in tensors for name in needed)]


@cache
def _timm_families() -> tuple[Family, ...]:
    text = importlib.resources.files("edcompress.networks").joinpath(FILE).read_text(encoding="ascii")
    return tuple(
        Family(
            tuple(family["first"]),
            tuple(family["classifiers"]),
            {digest: tuple(names) for digest, names in family["networks"].items()},
        )
        for family in json.loads(text)["families"]
    )
