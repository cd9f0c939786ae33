"""A file at an https URL, with its SHA-256 in the fragment: `https://host/file.safetensors#sha256=HEX`."""

from __future__ import annotations

import re
from functools import partial
from urllib.parse import urldefrag, urlsplit

from edcompress.core.errors import WeightsError
from edcompress.core.recipe.weights_name import NOTHING, WeightsName
from edcompress.core.system.machine import cache_home
from edcompress.networks.downloads import RemoteFile, fetch_file, file_of, require_secure, safe_name
from edcompress.networks.named_weights import NamedWeights


def find(name: WeightsName) -> NamedWeights:
    """Return the weights at a URL, which says nothing of their network; WeightsError for a URL without a checksum."""
    url, fragment = urldefrag(name.text)
    file_name = file_of(url)
    parts = urlsplit(url)
    if not parts.hostname or not file_name or parts.path.endswith("/"):
        raise WeightsError(
            f"{name.short}: is not the URL of a file; write https://host/path/file.safetensors#sha256=HEX"
        )
    if parts.username or parts.password:
        raise WeightsError(
            f"{name.short}: a user and a password in the URL are not sent; download the file, and give its path"
        )
    require_secure(name.short, url)
    given = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
    if not given:
        raise WeightsError(
            f"{name.short}: a URL needs the SHA-256 of its file, which says that it is the one that was meant: append #sha256= and its "
            f"64 hex digits{f' (got {fragment[:80]!r})' if fragment else ''}"
        )
    digest = given[1].lower()
    place = cache_home() / "weights" / f"{digest[:16]}-{safe_name(file_name)}"
    file = RemoteFile(name.short, url, place, digest)
    return NamedWeights(name.shown, NOTHING, partial(fetch_file, file))
