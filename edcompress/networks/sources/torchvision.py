"""torchvision's classifiers, with the weights that torchvision lists: `torchvision:resnet50@IMAGENET1K_V2`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torchvision

from edcompress.core.errors import WeightsError
from edcompress.core.plain_text import did_you_mean
from edcompress.core.recipe.weights_name import Offer, Values, WeightsName
from edcompress.networks.downloads import fetch_file, hub_file
from edcompress.networks.named_weights import NamedWeights
from edcompress.networks.usual_images import images_of_torchvision

SCHEME = "torchvision:"


def find(name: WeightsName) -> NamedWeights:
    """Return weights of torchvision; WeightsError for an unknown network or weights, or where several could be meant."""
    network, _, tag = name.rest.partition("@")
    weights = _entry(network, tag)
    size = weights.meta.get("_file_size")  # MiB
    file = hub_file(name.text, weights.url, None if size is None else round(size * 2**20), weights.meta.get("license"))
    return NamedWeights(name.text, Offer(_values(network, weights)), partial(fetch_file, file))


def _entry(network: str, tag: str) -> Any:
    """Return the entry of torchvision's enumeration of a network's weights."""
    networks = torchvision.models.list_models(module=torchvision.models)
    if network not in networks:
        near = did_you_mean(SCHEME + network, [SCHEME + known for known in networks], 3)
        raise WeightsError(f"{SCHEME}{network}: torchvision {torchvision.__version__} has no such classifier{near}")
    entries = torchvision.models.get_model_weights(network)
    known = {entry.name: entry for entry in entries if entry.meta["categories"]}  # others have no classifier
    if tag in known:
        return known[tag]
    if not tag and len(known) == 1:
        return next(iter(known.values()))
    listed = ", ".join(f"{SCHEME}{network}@{other}" for other in known)
    if tag:
        near = did_you_mean(tag.upper(), known)
        raise WeightsError(f"{SCHEME}{network}@{tag}: there are no such weights{near} (known: {listed or 'none'})")
    raise WeightsError(f"{SCHEME}{network}: there are {len(known)} sets of weights; write one of {listed}")


def _values(network: str, weights: Any) -> Values:
    """Return the recipe keys that follow from torchvision's description of the weights."""
    model = {"arch": network, "num_classes": len(weights.meta["categories"])}
    return {"model": model, "data": images_of_torchvision(network, weights)._asdict()}
