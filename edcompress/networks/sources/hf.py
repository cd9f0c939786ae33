"""A model repository of the Hugging Face Hub, in safetensors: `hf:OWNER/NAME`, `hf:OWNER/NAME/FILE` or `hf:OWNER/NAME@REVISION`."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from edcompress.core.errors import WeightsError
from edcompress.core.recipe.weights_name import Offer, WeightsName
from edcompress.networks.hub_files import HubRepository, read_repository
from edcompress.networks.hub_weights import weights_files
from edcompress.networks.image_processors import preprocessing_values
from edcompress.networks.named_weights import NamedWeights
from edcompress.networks.registry import TIMM
from edcompress.networks.timm_values import offer_of_timm, require_timm


def find(name: WeightsName) -> NamedWeights:
    """Return the weights of a repository; WeightsError if it is not there, or has no safetensors."""
    place, _, revision = name.rest.partition("@")
    owner, _, rest = place.partition("/")
    repo, _, file = rest.partition("/")
    repository = read_repository(name.text, f"{owner}/{repo}", revision or None)
    files = weights_files(repository, file)
    return NamedWeights(name.text, _described(repository), partial(repository.fetch, files))


def _described(repository: HubRepository) -> Offer:
    """Return the recipe keys that the repository's files describe, and notes on what they leave open."""
    config = _json(repository, "config.json")
    if isinstance(config.get("architecture"), str) and isinstance(config.get("pretrained_cfg"), dict):
        return _of_timm(repository.name, config)
    model = {"num_classes": number} if (number := _labels(config)) else {}
    kinds = config.get("architectures")
    called = f"is {kinds[0]}" if isinstance(kinds, list) and kinds else "is not named"
    note = f"its network {called} in config.json: model.arch or model.factory has to name one with the same tensors"
    values, open_notes = preprocessing_values(_json(repository, "preprocessor_config.json"))
    return Offer({"model": model, "data": values}, (note, *open_notes))


def _of_timm(name: str, config: dict[str, Any]) -> Offer:
    """Return the recipe keys of a network that timm saved, and notes."""
    require_timm(name)
    import timm

    arch, description = config["architecture"], config["pretrained_cfg"]
    tagged = f"{arch}.{description.get('tag')}"
    offer = offer_of_timm(
        TIMM + (tagged if tagged in timm.list_pretrained(f"{arch}.*") else arch), description, config.get("num_classes")
    )
    arguments = config.get("model_args")
    if timm.is_model(arch) and not arguments:
        return offer
    why = f"arguments {arguments}" if arguments else f"a network that timm {timm.__version__} lacks, {arch!r}"
    model = {key: value for key, value in offer.values["model"].items() if key != "arch"}
    note = f"it is built with {why}, which model.arch cannot express: model.factory has to build it"
    return Offer({**offer.values, "model": model}, (*offer.notes, note))


def _labels(config: dict[str, Any]) -> int | None:
    """Return the number of classes in a configuration of transformers."""
    labels = config.get("id2label")
    number = len(labels) if isinstance(labels, dict) else config.get("num_labels")
    return number if isinstance(number, int) else None


def _json(repository: HubRepository, file: str) -> dict[str, Any]:
    """Return the mapping in a JSON file of a repository; empty where it has no such file."""
    if file not in repository.files:
        return {}
    try:
        found = json.loads(repository.read_text(file))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{repository.name}: {file} of {repository.repo} is not valid JSON: {error}") from error
    return found if isinstance(found, dict) else {}
