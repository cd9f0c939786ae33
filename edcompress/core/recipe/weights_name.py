"""Weights by name: `SOURCE:NAME` or a URL in place of a file, and the recipe keys that their source fills.

A source is one module of `edcompress.networks.sources`. It has a docstring and `find(name)`, which returns a `NamedWeights`
(`edcompress.networks.named_weights`). Recognising a name imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from edcompress.core.errors import WeightsError
from edcompress.core.plain_text import did_you_mean
from edcompress.core.registry import load, names_in

SOURCES = "networks.sources"
"""The package whose modules are the sources."""

SYNTAX = {
    "torchvision": "torchvision:NETWORK@WEIGHTS",
    "timm": "timm:NETWORK.TAG",
    "hf": "hf:OWNER/NAME",
    "https": "https://...#sha256=HEX",
}
"""How names of the sources are written, for messages."""

Values = Mapping[str, Mapping[str, Any]]
"""Values of recipe keys by section."""


class Offer(NamedTuple):
    """The values of recipe keys that a source knows, and notes on what it knows and a recipe cannot express."""

    values: Values = {}  # noqa: RUF012  # a Mapping, which nothing changes
    notes: tuple[str, ...] = ()


NOTHING = Offer()
"""What follows from a file or a run."""

FILLED = {
    "model": {"arch", "num_classes", "in_channels"},
    "data": {"image_size", "resize", "interpolation", "mean", "std"},
}
"""The keys that sources fill, by section."""

TOGETHER = {
    "model": (("arch", "factory"),),
    "data": (("image_size", "resize"), ("mean", "std")),
}
"""Keys, by section, of which none is filled where the recipe sets the first one or the other: half of a pair fits no other half."""

_SCHEME = re.compile(r"([A-Za-z][\w+.-]+):(.*)", re.DOTALL)
"""A word of two letters or more before a colon: one letter is a drive of Windows."""


@dataclass(frozen=True)
class WeightsName:
    """The name of weights: its `source`, the `text` as the user writes it, and the `rest` of it after `SOURCE:`."""

    source: str
    text: str

    @property
    def rest(self) -> str:
        """The text after the source."""
        return self.text.partition(":")[2]

    @property
    def shown(self) -> str:
        """The name for reports: a URL without user, password and query, which may be secret."""
        fragment = self.text.partition("#")[2] if self.source == "https" else ""
        return f"{self.short}#{fragment}" if fragment else self.short

    @property
    def short(self) -> str:
        """The name for messages: a URL without its checksum too."""
        if self.source != "https":
            return self.text
        url = urlsplit(self.text)
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"


def weights_name(given: object) -> WeightsName | None:
    """Return the name of weights that a text is; None for the path of a file or run.

    Raises:
        WeightsError: The text starts with an unknown source, and is not the path of anything.
    """
    if not isinstance(given, str) or not (found := _SCHEME.fullmatch(given)):
        return None
    scheme = found[1]
    source = "https" if scheme.lower() in ("http", "https") else scheme
    if source in names_in(SOURCES):
        return WeightsName(source, given)
    if Path(given).exists():
        return None
    forms = ", ".join(SYNTAX.get(name, f"{name}:NAME") for name in names_in(SOURCES))
    raise WeightsError(
        f"{given}: there is no such file, and no source {scheme!r} of weights{did_you_mean(scheme, names_in(SOURCES))}; "
        f"give a file, a run, or one of {forms}"
    )


def offer_of(weights: object) -> Offer:
    """Return what weights by name fill in a recipe; nothing for a file or a run."""
    if (name := weights_name(weights)) is None:
        return NOTHING
    found: Offer = load(SOURCES, name.source).find(name).offer
    return found


def fill(tree: Mapping[str, Any], values: Values) -> dict[str, Any]:
    """Return a recipe's tree with these values for the keys that it does not set."""
    filled = dict(tree)
    for section, offered in values.items():
        own = tree.get(section, {})
        if isinstance(own, Mapping):
            filled[section] = {**_without_halves(offered, own, TOGETHER.get(section, ())), **own}
    return filled


def _without_halves(
    offered: Mapping[str, Any], own: Mapping[str, Any], pairs: tuple[tuple[str, str], ...]
) -> dict[str, Any]:
    """Return the values that are offered, without those that belong to a key that is set."""
    taken = {key for pair in pairs if any(own.get(key) is not None for key in pair) for key in pair}
    needed = {"image_size"} - own.keys()  # a crop size has no default
    return {key: value for key, value in offered.items() if key not in taken or key in needed}
