"""timm's networks with the weights that timm lists: `timm:resnet50.a1_in1k`, from the Hugging Face Hub or a URL."""

from __future__ import annotations

from functools import partial
from typing import Any

from edcompress.core.errors import WeightsError
from edcompress.core.plain_text import did_you_mean, few
from edcompress.core.recipe.weights_name import Offer, WeightsName
from edcompress.core.system.monitor import Monitor
from edcompress.networks.downloads import fetch_file, hub_file
from edcompress.networks.hub_files import read_repository
from edcompress.networks.hub_weights import weights_files
from edcompress.networks.named_weights import FetchedWeights, NamedWeights
from edcompress.networks.registry import TIMM
from edcompress.networks.timm_values import offer_of_timm, require_timm


def find(name: WeightsName) -> NamedWeights:
    """Return weights of timm; WeightsError for an unknown network or tag, or where several could be meant."""
    require_timm(name.text)
    description = _description(name.rest)
    if description.custom_load:
        raise WeightsError(
            f"{name.text}: its file is in a format of its own, which only timm's loader of this network reads"
        )
    offer = offer_of_timm(TIMM + name.rest, description.to_dict(), None)
    if not description.num_classes:
        offer = Offer(offer.values, (*offer.notes, "it has no classifier: it gives features"))
    return NamedWeights(name.text, offer, partial(_fetch, name.text, description))


def _description(network: str) -> Any:
    """Return timm's description of a network's weights."""
    import timm

    known = timm.list_pretrained()
    if network in known and "." in network:
        return timm.get_pretrained_cfg(network)
    if tagged := [one for one in known if one.partition(".")[0] == network.partition(".")[0]]:
        if "." not in network and len(tagged) == 1:
            return timm.get_pretrained_cfg(tagged[0])
        near = did_you_mean(TIMM + network, [TIMM + one for one in tagged]) if "." in network else ""
        raise WeightsError(
            f"{TIMM}{network}: write one of timm's {len(tagged)} sets of weights for this network{near}: "
            f"{few([TIMM + one for one in tagged], 40)}"
        )
    if timm.is_model(network):
        raise WeightsError(f"{TIMM}{network}: timm {timm.__version__} has no weights for this network")
    near = did_you_mean(TIMM + network, [TIMM + one for one in known], 3)
    raise WeightsError(f"{TIMM}{network}: timm {timm.__version__} has no such network{near}")


def _fetch(name: str, description: Any, monitor: Monitor) -> FetchedWeights:
    """Return the file, from the Hub if it is there, else from the URL."""
    if description.hf_hub_id:
        repo, _, revision = description.hf_hub_id.partition("@")
        repository = read_repository(name, repo, revision or None)
        return repository.fetch(weights_files(repository, description.hf_hub_filename or ""), monitor)
    return fetch_file(hub_file(name, description.url, None, description.license), monitor)
