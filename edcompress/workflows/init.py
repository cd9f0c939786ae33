"""Verb: a recipe for a user's weights and images, from a look at both."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from edcompress.core.errors import NetworkError
from edcompress.core.plain_text import few
from edcompress.core.recipe.data import Data
from edcompress.core.recipe.model import Model
from edcompress.core.recipe.starter import target_tree, with_comments
from edcompress.core.recipe.yaml_files import Tree
from edcompress.core.system.context import DEFAULT
from edcompress.core.system.monitor import Monitor
from edcompress.data.survey import Survey, survey
from edcompress.networks.fingerprints import timm_names
from edcompress.networks.load_weights import load_into
from edcompress.networks.recognition import recognise
from edcompress.networks.registry import TIMM, build
from edcompress.networks.usual_images import images_of_keys
from edcompress.networks.weight_files import read_state_dict
from edcompress.workflows.stages.image_guess import Guess, by_wnid, guess_images, rank_by_statistics
from edcompress.workflows.weights import GivenWeights, Weights, open_weights

GATE = {"max_top1_drop": 0.02, "min_speedup": 1.1}
"""The limits of a new recipe: a drop of two points, and a speed-up that can be felt."""


@dataclass(frozen=True)
class NewRecipe:
    """A recipe as text, and what its user should know of it."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass
class _Page:
    """The values and the comments of a recipe, as they are found."""

    tree: Tree
    comments: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def suggest_recipe(
    path: Path,
    weights: Weights,
    images: Path,
    *,
    target: str = "macs=0.5",
    trust_pickle: bool = False,
    monitor: Monitor = DEFAULT.monitor,
) -> NewRecipe:
    """Return a short recipe for a network and its images: what it takes from both, and no value that has a good default.

    Args:
        path: The file that it will be written to, which names the recipe.
        weights: A weights file, or the name of weights, which are fetched, and whose source says what network and images they are for.
        images: A folder of class folders, or of one of torchvision's data sets.
        target: A key of the recipe's target section and its value, such as "macs=0.5".
        trust_pickle: Unpickle a whole module, which may run code from the file.
        monitor: Shows what is fetched.

    Raises:
        InputError: The weights or the images cannot be used, the network is not known, or the target is not valid.
    """
    page = _Page({"name": path.stem.lstrip(".") or "recipe"})
    wanted = target_tree(target)
    found = survey(images)
    given = open_weights(weights, monitor)
    tensors = read_state_dict(given.path, trust_pickle=trust_pickle)
    models = _models_of(given, tensors)
    model, network = _loaded(rank_by_statistics(models, tensors, found), tensors, given.path)
    guess = guess_images(model, network, found, images_of_keys(given.offer.values.get("data", {})))
    _describe_model(page, model, [one for one in models if one != model], found, given)
    _describe_images(page, guess, found)
    page.tree |= {"target": wanted, "gate": GATE}
    page.comments |= {
        "target": "largest share to keep; see `edcompress inspect` for how far it can go",
        "gate": "limits that `edcompress gate` checks: drop of top-1 (absolute), speed-up in onnxruntime",
    }
    head = f"{model.name} on {len(found.classes)} classes of {images}. Every other key: edcompress init FILE --all"
    return NewRecipe(with_comments(head, page.tree, page.comments, str(path)), tuple(page.notes))


def _models_of(given: GivenWeights, tensors: Mapping[str, Tensor]) -> tuple[Model, ...]:
    """Return the network that the source of weights names, or the networks that the tensors fit."""
    named = given.offer.values.get("model")
    return (Model.model_validate(named),) if named else recognised(tensors, given.path)


def recognised(tensors: Mapping[str, Tensor], weights: Path) -> tuple[Model, ...]:
    """Return the networks that tensors fit, best first; NetworkError, which names `weights`, without any."""
    found = recognise(tensors, hint=weights.stem)
    if found.models:
        return found.models
    if importlib.util.find_spec("timm") is None and (names := list(timm_names(tensors))):
        raise NetworkError(f"{weights}: the weights are of {TIMM}{names[0]}: pip install 'edcompress[timm]'")
    shapes = [f"{name} {list(tensor.shape)}" for name, tensor in tensors.items() if tensor.ndim > 1]
    seen = f"{len(tensors)} tensors, from {shapes[0]} to {shapes[-1]}" if shapes else f"{few(list(tensors))}"
    raise NetworkError(
        f"{weights}: no network of torchvision or timm and no CIFAR ResNet has these tensors ({seen})"
        + (f"; {found.nearest}" if found.nearest else "")
        + "; name a function that builds your network: write a recipe with `edcompress init FILE --all`, and set model.factory to "
        "package.module:callable and model.arch to null"
    )


def _loaded(models: tuple[Model, ...], tensors: Mapping[str, Tensor], weights: Path) -> tuple[Model, nn.Module]:
    network = build(models[0])
    load_into(network, tensors, source=str(weights))
    return models[0], network


def _describe_model(page: _Page, model: Model, others: list[Model], found: Survey, given: GivenWeights) -> None:
    """Write the model section: the classes are those of the weights, or those of the images with a new classifier."""
    tree = model.model_dump(mode="json", include={"arch", "stem", "num_classes", "in_channels"}, exclude_defaults=True)
    page.tree["model"] = tree
    names = few([other.name for other in others])
    known = given.name if given.offer.values else f"recognised in {given.name}"
    page.comments["model.arch"] = known + (f"; {names} has the same shapes" if names else "")
    if others:
        page.notes.append(f"{given.name} fits {model.name}, which the recipe takes, and {names}")
    theirs, ours = model.num_classes, len(found.classes)
    if theirs == ours or by_wnid(model, found):
        return
    tree |= {"num_classes": ours, "reset_head": True}
    page.comments["model.reset_head"] = (
        f"the weights have {theirs} classes, the images {ours}: a new classifier is trained"
    )
    page.notes.append(
        f"the weights have {theirs} classes and the images {ours}: model.reset_head trains a new classifier, and drops from the dense "
        f"network, whose classifier begins untrained, say nothing; check --images, or fine-tune on these {ours} classes first"
    )


def _describe_images(page: _Page, guess: Guess, found: Survey) -> None:
    """Write the data section, without keys that have their defaults."""
    keys: dict[str, Any] = {**found.keys, **guess.keys}
    given = Data.model_validate(keys).model_dump(mode="json", exclude_defaults=True)
    page.tree["data"] = {key: given[key] for key in keys if key in given}
    place = "folder" if "folder" in found.keys else "root"
    least, _, most = found.sides
    sides = f"{least}" if least == most else f"{least} to {most}"
    page.comments |= {
        f"data.{place}": f"{len(found.train)} training and {found.test} test images of {few(found.classes, 4)}",
        "data.image_size": f"{guess.why_size}; short sides of the images: {sides} pixels",
        "data.mean": guess.why_statistics,
        **{f"data.{key}": text for key, text in guess.comments.items()},
    }
