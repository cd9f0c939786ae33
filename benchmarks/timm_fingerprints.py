"""Write the fingerprints of timm's networks, by which `edcompress init` recognises weights; takes minutes.

python benchmarks/timm_fingerprints.py
"""

from __future__ import annotations

import json
from collections import defaultdict
from functools import partial
from pathlib import Path

import timm
from harness import new_parser
from timm.models import get_pretrained_cfg

from edcompress.networks.fingerprints import FILE, fingerprint
from edcompress.networks.outlines import outline

Names = tuple[str, ...]


def main() -> None:
    """Write the file in the package."""
    new_parser(__doc__).parse_args()
    families: dict[tuple[Names, Names], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in timm.list_models():
        config = get_pretrained_cfg(name)
        if config is None or not config.first_conv or not config.classifier:
            continue
        network = outline(partial(timm.create_model, name, pretrained=False))
        layers = _names(config.first_conv), _names(config.classifier)
        families[layers][fingerprint(network.state_dict(), *layers)].append(name)
    listed = [
        {"first": first, "classifiers": classifiers, "networks": networks}
        for (first, classifiers), networks in families.items()
    ]
    path = Path(__file__).parents[1] / "edcompress" / "networks" / FILE
    path.write_text(json.dumps({"timm": timm.__version__, "families": listed}, indent=0) + "\n", encoding="ascii")


def _names(one_or_several: str | Names) -> Names:
    return (one_or_several,) if isinstance(one_or_several, str) else tuple(one_or_several)


if __name__ == "__main__":
    main()
