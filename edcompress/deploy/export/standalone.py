"""load_pruned.py: the pruned network of a run for whoever has the run folder and no edcompress.

It holds the source text of the few definitions of ours that the network and its cutting need, taken from our modules as they stand.
"""

from __future__ import annotations

import ast
import inspect
import platform
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType
from typing import Any

from torch import nn

from edcompress.core.recipe.model import Model
from edcompress.networks import attention, cifar_resnet, materialize_weights, registry
from edcompress.pruning.space import gene_index
from edcompress.pruning.surgery import cut

_TEXT = '''\
"""The pruned network of this folder, for PyTorch without edcompress.

    from load_pruned import load_pruned

    network = load_pruned()  # an nn.Module in eval mode on the CPU

`python load_pruned.py` prints its number of parameters and the shape of its logits.

{name} is built as it was before pruning. plan.json says which channels of each group are kept, and space.json where in the layers
they sit; the others are cut out, and the tensors of pruned.safetensors loaded. Keep the four files together.

Written by {writer}; needs {needs}.
The definitions are edcompress's own, copied as they are. Licence: Apache-2.0.
"""

from __future__ import annotations

IMPORTS
FOLDER = Path(__file__).parent
IMAGE = {image}  # channels, height and width in pixels


def load_pruned() -> nn.Module:
    """The pruned network with its trained weights."""
    network = build()
    space, plan = (json.loads((FOLDER / name).read_text(encoding="utf-8")) for name in ("space.json", "plan.json"))
    for (layer, dim), keep in positions_kept(space, plan).items():
        cut_side(network.get_submodule(layer), dim, torch.tensor(keep))
    state = network.state_dict()  # torch's own dictionary: it carries the version of each layer's layout
    state.update(load_file(FOLDER / "pruned.safetensors"))
    network.load_state_dict(state)
    return network.eval()


def build() -> nn.Module:
    """The network before pruning, with random weights."""
    {build}
    return network


{definitions}


if __name__ == "__main__":
    {first}pruned = load_pruned()
    with torch.no_grad():
        logits = pruned(torch.randn(1, *IMAGE))
    parameters = sum(parameter.numel() for parameter in pruned.parameters())
    print(f"{{parameters}} parameters; logits {{list(logits.shape)}} of a random image {{[1, *IMAGE]}}")
'''

_IMPORTS = (
    ("import copy", "copy.deepcopy"), ("import json", "json"), ("import sys", "sys"), ("from collections.abc import Iterator", "Iterator"),
    ("from importlib import import_module", "import_module"), ("from itertools import chain", "chain"),
    ("from pathlib import Path", "Path"), ("from typing import Any", "Any"), ("", ""),
    ("import timm", "timm.create_model"), ("import torch", "torch"), ("import torch.nn.functional as F", "F"),
    ("import torchvision", "torchvision"), ("from safetensors.torch import load_file", "load_file"),
    ("from torch import Tensor, nn", "nn"), ("from torch.nn.utils import parametrize, prune", "parametrize"),
    ("from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm", "SpectralNorm"),
    ("from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm", "WeightNorm"),
    ("from torch.overrides import TorchFunctionMode", "TorchFunctionMode"), ("", ""),
)  # fmt: skip
"""Lines, and the name for whose sake each is there."""


@dataclass(frozen=True)
class _Construction:
    """The lines that make `network`, the package they need, and the definitions of ours among them."""

    lines: list[str]
    package: str | None = None
    definitions: Sequence[str] = ()


def standalone_source(model: Model, network: nn.Module, image: Sequence[int]) -> str:
    """The text of load_pruned.py for the recipe's `model`, of which `network` is what pruning left, and images of C x H x W."""
    made = _construction(model, network)
    cutting = (
        *_definitions(sys.modules[__name__], "positions_kept"),
        *_definitions(cut, "cut_side"),
        *_definitions(gene_index, "tensors_along"),
    )
    needs = ["torch", "safetensors", *([made.package] if made.package else [])]
    text = _TEXT.format(
        name=model.name,
        writer=f"edcompress {version('edcompress')} with Python {platform.python_version()}",
        needs=", ".join(f"{name} ({version(name)} here)" for name in needs)
        + (", and your code" if model.factory else ""),
        image=tuple(image),
        build="\n    ".join(made.lines),
        definitions="\n\n\n".join((*made.definitions, *cutting)),
        first="sys.path.insert(0, str(Path.cwd()))  # where your code is looked for\n    " if model.factory else "",
    )
    code = text.partition("IMPORTS\n")[2]
    lines = [line for line, name in _IMPORTS if not name or re.search(rf"\b{name}\b", code)]
    return text.replace("IMPORTS\n", "\n".join(lines) + "\n", 1)


def positions_kept(space: Any, plan: Any) -> dict[tuple[str, int], list[bool]]:
    """For each layer and dimension (0 out, 1 in) of its tensors that loses something: which positions stay."""
    kept = {group["name"]: set(group["kept"]) for group in plan["groups"]}
    stays: dict[tuple[str, int], dict[int, bool]] = {}
    for group in space["groups"]:
        channels = kept.get(group["name"], range(group["channels"]))  # a locked group is not in the plan
        for member in group["members"]:
            side = stays.setdefault((member["layer"], 0 if member["side"] == "out" else 1), {})
            side.update({p: c in channels for p, c in zip(member["positions"], member["channels"], strict=True)})
    return {key: [side[p] for p in sorted(side)] for key, side in stays.items() if not all(side.values())}


def _construction(model: Model, network: nn.Module) -> _Construction:
    """As `job.plain_network` makes the network."""
    built = _built(model, network)
    if not any(hasattr(layer, "weight_was_computed") for layer in network.modules()):
        return built
    definitions = [*built.definitions, *_definitions(materialize_weights, "with_plain_weights")]
    return _Construction([*built.lines, "with_plain_weights(network)"], built.package, definitions)


def _built(model: Model, network: nn.Module) -> _Construction:
    """As `registry.build` makes the network."""
    if model.factory is not None:
        module, _, name = model.factory.partition(":")
        make = f"network: nn.Module = import_module({module!r}).{name}()"
        lines = [make, "with torch.no_grad():", "    network.eval()(torch.zeros(2, *IMAGE))  # makes lazy layers"]
        names = [name for name, layer in network.named_modules() if isinstance(layer, attention.SelfAttention)]
        definitions = _definitions(attention, "with_free_heads") if names else []
        return _Construction([*lines, *([f"with_free_heads(network, {names!r})"] if names else [])], None, definitions)
    assert model.arch is not None
    classes, channels = model.num_classes, model.in_channels
    if model.arch in cifar_resnet.CIFAR_RESNETS:
        depth = cifar_resnet.CIFAR_RESNETS[model.arch]
        line = f"network = CifarResNet({depth}, num_classes={classes}, in_channels={channels})"
        return _Construction([line], None, _definitions(cifar_resnet, "CifarResNet"))
    if model.arch.startswith(registry.TIMM):
        name = model.arch.removeprefix(registry.TIMM)
        line = f"timm.create_model({name!r}, pretrained=False, num_classes={classes}, in_chans={channels})"
        return _Construction([f"network: nn.Module = {line}"], "timm")
    return _of_torchvision(model.arch, model, network)


def _of_torchvision(name: str, model: Model, network: nn.Module) -> _Construction:
    extra = "".join(f", {key}={value!r}" for key, value in registry.EXTRA_ARGUMENTS.get(name, {}).items())
    make = f"torchvision.models.get_model({name!r}, weights=None, num_classes={model.num_classes}{extra})"
    lines, definitions, changes = [f"network: nn.Module = {make}"], [], []
    if any(isinstance(layer, attention.SelfAttention) for layer in network.modules()):
        lines.append("with_free_heads(network)")
        definitions = _definitions(attention, "with_free_heads")
    if model.in_channels != 3:
        lines.append(f"replace_input(network, {model.in_channels})")
        changes.append("replace_input")
    if model.stem == "cifar":
        conv, pool = registry.STEMS[registry.family(name)]
        lines.append(f"replace_stem(network, {conv!r}, {pool!r})")
        changes.append("replace_stem")
    return _Construction(lines, "torchvision", [*definitions, *_definitions(registry, *changes)])


def _definitions(module: ModuleType, *names: str) -> list[str]:
    """The source texts of these definitions of a module, and of all others of it that they use, in the module's order."""
    source = inspect.getsource(module)
    nodes = {name: node for node in ast.parse(source).body for name in _defined(node)}
    needed, asked = set(), list(names)
    while asked:
        name = asked.pop()
        if name in nodes and name not in needed:
            needed.add(name)
            asked += [used.id for used in ast.walk(nodes[name]) if isinstance(used, ast.Name)]
    return [_text(source, node) for name, node in nodes.items() if name in needed]


def _text(source: str, node: ast.stmt) -> str:
    """The lines of a definition, with its decorators."""
    first = min([node, *getattr(node, "decorator_list", [])], key=lambda part: part.lineno).lineno
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [node.name] if isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []
