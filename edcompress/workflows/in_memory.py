"""A recipe, and the names in it, of objects in memory: a network, its data sets, a loss and a metric."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.errors import InputError, NetworkError
from edcompress.core.plain_text import did_you_mean
from edcompress.core.recipe.faults import check
from edcompress.core.recipe.recipe import Recipe
from edcompress.core.system.monitor import Monitor
from edcompress.core.user_code import IN_MEMORY, Trust, users_code
from edcompress.data.objects import fingerprint_of, first_image
from edcompress.data.own_sets import PARTS, Given
from edcompress.networks.build import example_images
from edcompress.networks.modes import evaluating
from edcompress.networks.outputs import outputs_of
from edcompress.networks.user_factory import OBJECT, copy_of_object
from edcompress.runs.folder import RunFolder

SOURCE = "edcompress.prune"
"""What messages about recipe keys begin with."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What a call in Python asks for beside the network and its data sets.

    Attributes:
        loss: A function of what the network returns and labels, or the name of a shipped one.
        metric: A function of all outputs and labels, or the name of a shipped one.
        output: Which of several outputs counts.
        sections: Further sections and keys of a recipe.
    """

    loss: object = None
    metric: object = None
    output: str | int | None = None
    sections: Mapping[str, Any] = field(default_factory=dict)


OWN_NAMES = ("train", "val", "test", "out", "loss", "metric", "output")
"""Arguments of `prune` with a network in memory that are not sections or keys of a recipe."""

NOT_GIVEN = ("name", "preset", "model", "train", "metric", "chosen")
"""Keys of a recipe that follow from objects, or have other meanings there."""

REQUIRED = {"train": "the training images", "out": "the run folder to write"}


def parts_of_call(objects: Mapping[str, Any]) -> tuple[Given, Asked, str | Path | RunFolder]:
    """Return the data sets, the rest and the run folder of a call by its keyword arguments; TypeError for unknown or missing ones."""
    sections = [key for key in Recipe.model_fields if key not in NOT_GIVEN]
    if unknown := [key for key in objects if key not in (*OWN_NAMES, *sections)]:
        hint = did_you_mean(unknown[0], [*OWN_NAMES, *sections])
        raise TypeError(f"{SOURCE}: there is no argument {unknown[0]!r}{hint}; with a network in memory it takes {', '.join(OWN_NAMES)}, "
                        f"and the sections {', '.join(sections)}")  # fmt: skip
    for key, what in REQUIRED.items():
        if objects.get(key) is None:
            raise TypeError(f"{SOURCE}: give {what} as {key}=...")
    given = Given(*(objects.get(part) for part in PARTS))
    others = {key: value for key, value in objects.items() if key not in OWN_NAMES and value is not None}
    return given, Asked(objects.get("loss"), objects.get("metric"), objects.get("output"), others), objects["out"]


def recipe_of_objects(
    model: nn.Module, given: Given, asked: Asked, folder: Path, monitor: Monitor
) -> tuple[Recipe, dict[str, Any]]:
    """Return the recipe that describes objects in memory, and the objects by their names in it.

    Args:
        model: The trained network, which stays as it is.
        given: Its data sets or DataLoaders.
        asked: The rest of the call.
        folder: The run folder, whose name is that of the recipe.
        monitor: Gets warnings.

    Raises:
        InputError: An object cannot be used, or a key is not valid.
    """
    data = _section(asked.sections, "data")
    sets = {f"data.{part}": value for part, value in zip(PARTS, given, strict=True) if value is not None}
    image = first_image(given.train, "train", data.get("channels"))
    if image.dtype == torch.uint8 and "mean" not in data:
        monitor.warning(
            "train gives pixels, not floats: they are normalised with data.mean 0.5 and data.std 0.5; if the network was trained with "
            "others, pass data={'mean': ..., 'std': ...}, or return floats as the network takes them"
        )
    data = {"image_size": list(image.shape[1:]), **data, "dataset": "memory", "fingerprint": fingerprint_of(sets)}
    size = data["image_size"] if isinstance(data["image_size"], list | tuple) else [data["image_size"]] * 2
    loss, own_loss = named(asked.loss, "loss")
    metric, own_metric = named(asked.metric, "metric")
    finetune = _section(asked.sections, "finetune")
    tree = {
        "name": folder.resolve().name.lstrip(".") or type(model).__name__,
        **asked.sections,
        "model": model_section(model, (len(image), *size), asked.output),
        "data": data,
        "finetune": finetune if loss is None else {**finetune, "loss": loss},
    }
    recipe = check(tree if metric is None else {**tree, "metric": metric}, SOURCE)
    _warn_of_frozen(model, monitor)
    return recipe, {OBJECT: model, **sets, **own_loss, **own_metric}


def model_section(model: nn.Module, shape: tuple[int, ...], output: str | int | None = None) -> dict[str, Any]:
    """Return the recipe's section of a network in memory, tried on images of a shape (C, H, W); NetworkError if it cannot take them."""
    name, chosen = type(model).__name__, None if output is None else str(output)
    copied = copy_of_object(name, Trust(objects={OBJECT: model})).float()
    channels, height, width = shape
    fault = f"{OBJECT}: {name} cannot take images of {channels}x{height}x{width}"
    with users_code(fault, NetworkError), torch.no_grad(), evaluating(copied):
        returned = copied(example_images((channels, height, width)))
    first = next(iter(outputs_of(returned, chosen).values()))
    return {"object": name, "in_channels": channels, "num_classes": _classes(first), "output": chosen}


def _classes(logits: Tensor) -> int:
    """Return the number of classes of logits [N, classes, ...]; 2, which nobody reads, for an output that has none."""
    return logits.shape[1] if logits.dim() > 1 and logits.shape[1] > 1 else 2


def named(given: object, key: str) -> tuple[str | None, dict[str, Callable[..., Any]]]:
    """Return a recipe's name of a loss or metric, and the object by that name unless it is a shipped one.

    A function that can be imported has the name of its import, so that the command line finds it too.
    """
    if given is None or isinstance(given, str):
        return given, {}
    if not callable(given):
        raise InputError(f"{key}: it is a {type(given).__name__}; give a function of outputs and labels, or a name")
    found = getattr(given, "__name__", type(given).__name__)
    module = getattr(given, "__module__", None) or ""
    word = "".join(letter if letter.isalnum() else "_" for letter in found).strip("_") or key
    importable = module != "__main__" and getattr(sys.modules.get(module), found, None) is given
    name = f"{module}:{found}" if importable else f"{IN_MEMORY}{word}"
    return name, {name: given}


def _section(sections: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = sections.get(name) or {}
    if not isinstance(found, Mapping):
        raise InputError(f"{SOURCE}: {name}: give a dict of keys and values (got {type(found).__name__})")
    return dict(found)


def _warn_of_frozen(model: nn.Module, monitor: Monitor) -> None:
    """Warn where some parameters are frozen; where all are, the run is refused."""
    flags = [parameter.requires_grad for parameter in model.parameters()]
    if any(flags) and not all(flags):
        monitor.warning(
            f"{flags.count(False)} of {len(flags)} parameters of the given network are frozen; its copy, which is pruned, is trained as a "
            "whole: what remains of a layer must adapt"
        )
