"""What a network returns: one tensor, or a dict, tuple or dataclass of tensors, of which one or several are outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edcompress.core.errors import NetworkError

LOGITS = "logits"
"""The name of the only output, or of the one that `model.output` chooses."""

AUXILIARY = "aux"
"""The start of the names of outputs that only help to train, as in torchvision's GoogLeNet, Inception and segmentation networks."""


def named_outputs(output: Any) -> dict[str, Tensor]:
    """Return the tensors of floating-point numbers that a network returned, by name, in their order.

    Names are the keys of a dict, the fields of a dataclass or named tuple, or the positions of a tuple from 0; of nested ones all parts,
    joined by dots. A single tensor is `LOGITS`.
    """
    return {LOGITS: output} if isinstance(output, Tensor) else dict(_tensors(output, ""))


def _tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dim():
            yield name, value
        return
    for key, part in _parts(value):
        yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """Return the named parts of a container; none of what is not a container."""
    if isinstance(value, Mapping):
        return list(value.items())
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    return list(enumerate(value)) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []


def outputs_of(output: Any, chosen: str | None = None) -> dict[str, Tensor]:
    """Return the outputs that count: the chosen one, else the only one, as `LOGITS`; else all that are not auxiliary, by name.

    Raises:
        NetworkError: There is no tensor, or none of the chosen name.
    """
    if isinstance(output, Tensor):  # one tensor in eval mode, several in train mode: nothing to choose
        return {LOGITS: output}
    found = named_outputs(output)
    if not found:
        raise NetworkError(f"the network gives a {type(output).__name__} without a tensor of logits")
    if chosen is not None:
        if chosen not in found:
            raise NetworkError(f"model.output: the network gives no {chosen!r}, but {', '.join(found)}")
        return {LOGITS: found[chosen]}
    main = {name: value for name, value in found.items() if not name.startswith(AUXILIARY)} or found
    return {LOGITS: next(iter(main.values()))} if len(main) == 1 else main


def logits_of(output: Any, chosen: str | None = None) -> Tensor:
    """Return the chosen or only output; NetworkError if there are several, and none is chosen."""
    found = outputs_of(output, chosen)
    if len(found) > 1:
        raise NetworkError(
            f"the network gives {len(found)} outputs ({', '.join(found)}); choose one with model.output={next(iter(found))}, or give a "
            "loss and a metric of your own (finetune.loss, metric), which get all of them"
        )
    return next(iter(found.values()))


def auxiliary_outputs(output: Any, chosen: str | None = None) -> list[Tensor]:
    """Return the auxiliary outputs, other than the chosen one."""
    if isinstance(output, Tensor):
        return []
    return [value for name, value in named_outputs(output).items() if name.startswith(AUXILIARY) and name != chosen]


def joined(output: Any) -> Tensor:
    """Return all that a network returned as one tensor: a single tensor as it is, several image by image, [N, values]."""
    if isinstance(output, Tensor):
        return output
    return torch.cat([value.reshape(len(value), -1) for value in named_outputs(output).values()], dim=1)


class ChosenOutputs(nn.Module):
    """A network that returns the outputs that count alone, as a tensor or a tuple, as an ONNX file has them.

    Attributes:
        names: The names of the outputs in a file: letters, digits and underscores.
    """

    def __init__(self, network: nn.Module, chosen: str | None, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.chosen, self.names = network, chosen, file_names(names)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the outputs for images [N, C, H, W]."""
        found = tuple(outputs_of(self.network(images), self.chosen).values())
        return found if len(found) > 1 else found[0]


@torch.no_grad()
def with_chosen_outputs(network: nn.Module, images: Tensor, chosen: str | None) -> nn.Module:
    """Return a network in eval mode that returns the outputs that count alone; the network itself if it returns one tensor for images."""
    found = network(images)
    return network if isinstance(found, Tensor) else ChosenOutputs(network, chosen, list(outputs_of(found, chosen)))


def file_names(names: Sequence[str]) -> list[str]:
    """Return the names of outputs as ONNX files and own metrics have them: letters, digits and underscores; output_0 for a position."""
    return [re.sub(r"\W", "_", f"output_{name}" if name[:1].isdigit() else name) for name in names]
