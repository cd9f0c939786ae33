"""Which files of a Hub repository are its weights: safetensors only."""

from __future__ import annotations

import json

from edcompress.core.errors import WeightsError
from edcompress.core.plain_text import did_you_mean, few
from edcompress.networks.hub_files import INDEX, WEIGHTS, HubRepository

SUFFIX = ".safetensors"


def weights_files(repository: HubRepository, file: str = "") -> tuple[str, ...]:
    """Return the files of the weights, first the one to open; `file` chooses one of several.

    Raises:
        WeightsError: There are no safetensors, several that could be meant, or not the `file`.
    """
    known = [name for name in repository.files if name.endswith(SUFFIX)]
    if file:
        if file not in known:
            raise WeightsError(
                f"{repository.name}: {repository.repo} has no {file!r} in safetensors{did_you_mean(file, known)} (it has {_listed(known)})"
            )
        return (file,)
    if WEIGHTS in known:
        return (WEIGHTS,)
    if INDEX in repository.files:
        return (INDEX, *_shards(repository))
    if len(known) == 1:
        return (known[0],)
    if known:
        raise WeightsError(
            f"{repository.name}: {repository.repo} has {len(known)} files of weights; choose one by hf:{repository.repo}/FILE: "
            f"{_listed(known)}"
        )
    pickles = [name for name in repository.files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    raise WeightsError(
        f"{repository.name}: {repository.repo} has no safetensors"
        + (f", only {_listed(pickles)}: pickles, which can run code" if pickles else "")
        + "; download its weights, convert them if you trust them, and give the file"
    )


def _shards(repository: HubRepository) -> list[str]:
    """Return the names of the shards that an index lists; those that the repository lacks are an error."""
    try:
        shards = sorted(set(json.loads(repository.read_text(INDEX))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{repository.name}: {INDEX} is not an index of shards: {type(error).__name__}: {error}"
        ) from error
    if lacking := [name for name in shards if name not in repository.files]:
        raise WeightsError(f"{repository.name}: {repository.repo} lacks {lacking[0]}, which its {INDEX} names")
    return shards


def _listed(names: list[str]) -> str:
    return few(names) or "none"
